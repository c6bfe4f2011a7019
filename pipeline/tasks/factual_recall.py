"""Facts about a subject (Meng et al., arXiv 2202.05262; Geva et al., arXiv 2304.14767).

    The Eiffel Tower is located in the city of  ->  Paris

Knows facts that reference works have, in four relations. Subjects may be several tokens: the corrupted prompt has
another subject of the same relation and of as many tokens.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from pipeline.tasks.frames import Filling, FramedTask, Lexicon, Writer, choice
from pipeline.tasks.relation import Table, table


class Fact(NamedTuple):
    """A relation: what its subjects and its answers are called, how it is said, and its facts."""

    subjects: str
    answers: str
    sentence: str
    known: Table


FACTS = (
    Fact(
        "place",
        "city",
        "The {place.subject} is located in the city of {city.answer}",
        table("""
            Eiffel_Tower Paris Louvre Paris Colosseum Rome Pantheon Rome Vatican Rome Big_Ben London
            Tower_Bridge London Buckingham_Palace London British_Museum London Brandenburg_Gate Berlin Kremlin
            Moscow Red_Square Moscow Forbidden_City Beijing Acropolis Athens Parthenon Athens Pentagon
            Washington White_House Washington Space_Needle Seattle Willis_Tower Chicago CN_Tower Toronto
            Burj_Khalifa Dubai Hagia_Sophia Istanbul Blue_Mosque Istanbul Sydney_Opera_House Sydney Prado_Museum
            Madrid Charles_Bridge Prague Notre_Dame Paris Arc_de_Triomphe Paris Trevi_Fountain Rome
            Westminster_Abbey London London_Eye London Hyde_Park London Trafalgar_Square London
            Lincoln_Memorial Washington Capitol_Building Washington Fenway_Park Boston
            Wrigley_Field Chicago Millennium_Park Chicago Bondi_Beach Sydney Spanish_Steps Rome Sistine_Chapel Rome
            Musée_d'Orsay Paris Moulin_Rouge Paris Reichstag Berlin Checkpoint_Charlie Berlin Bolshoi_Theatre Moscow
            Temple_of_Heaven Beijing Summer_Palace Beijing Tokyo_Tower Tokyo Imperial_Palace Tokyo
        """),
    ),
    Fact(
        "town",
        "land",
        "The city of {town.subject} is in the country of {land.answer}",
        table("""
            Lyon France Marseille France Nice France Milan Italy Venice Italy Naples Italy Florence Italy Munich
            Germany Hamburg Germany Frankfurt Germany Cologne Germany Barcelona Spain Seville Spain Valencia
            Spain Osaka Japan Kyoto Japan Nagoya Japan Mumbai India Chennai India Kolkata India Shanghai China
            Wuhan China Lahore Pakistan Karachi Pakistan Krakow Poland Porto Portugal Istanbul Turkey Montreal
            Canada Toronto Canada Sydney Australia Melbourne Australia Geneva Switzerland Zurich Switzerland
            Lagos Nigeria Rotterdam Netherlands Bordeaux France Toulouse France Strasbourg France Nantes France
            Turin Italy Bologna Italy Genoa Italy Palermo Italy Stuttgart Germany Dresden Germany Leipzig Germany
            Bremen Germany Bilbao Spain Malaga Spain Granada Spain Hiroshima Japan Sapporo Japan Fukuoka Japan
            Bangalore India Hyderabad India Jaipur India Shenzhen China Guangzhou China Nanjing China Faisalabad
            Pakistan Gdansk Poland Wroclaw Poland Ankara Turkey Izmir Turkey Vancouver Canada Calgary Canada
            Brisbane Australia Perth Australia Basel Switzerland Lausanne Switzerland Guadalajara Mexico Monterrey
            Mexico Salvador Brazil Recife Brazil Alexandria Egypt Busan Korea Marrakesh Morocco Casablanca Morocco
        """),
    ),
    Fact(
        "product",
        "company",
        "The {product.subject} was made by the company {company.answer}",
        table("""
            iPhone Apple iPad Apple MacBook Apple iPod Apple Windows_operating_system Microsoft Xbox Microsoft
            Xbox_360 Microsoft PlayStation Sony PlayStation_2 Sony Walkman Sony Android_operating_system Google
            Chromebook Google Game_Boy Nintendo Wii Nintendo Mustang Ford Model_T Ford Corvette Chevrolet Camaro
            Chevrolet Prius Toyota Corolla Toyota Civic Honda Accord Honda Galaxy_phone Samsung Pentium Intel
            Kindle Amazon ThinkPad IBM Photoshop Adobe Apple_Watch Apple AirPods Apple Macintosh Apple
            PlayStation_3 Sony Nintendo_Switch Nintendo GameCube Nintendo Super_Nintendo Nintendo Chrome_browser
            Google Gmail Google Bronco Ford F-150 Ford Fiesta Ford Camry Toyota Land_Cruiser Toyota Accord_sedan
            Honda Silverado Chevrolet Galaxy_tablet Samsung Xeon_processor Intel Xbox_One Microsoft Excel
            Microsoft PowerPoint Microsoft Surface_tablet Microsoft Acrobat Adobe Illustrator Adobe Echo_speaker
            Amazon Model_S Tesla Cybertruck Tesla
        """),
    ),
    Fact(
        "athlete",
        "sport",
        "{athlete.subject} plays the sport of {sport.answer}",
        table("""
            Michael_Jordan basketball LeBron_James basketball Kobe_Bryant basketball Larry_Bird basketball
            Magic_Johnson basketball Tom_Brady football Peyton_Manning football Joe_Montana football Babe_Ruth
            baseball Derek_Jeter baseball Barry_Bonds baseball Ted_Williams baseball Roger_Federer tennis
            Rafael_Nadal tennis Serena_Williams tennis Andre_Agassi tennis Tiger_Woods golf Jack_Nicklaus golf
            Phil_Mickelson golf Wayne_Gretzky hockey Sidney_Crosby hockey Lionel_Messi soccer Cristiano_Ronaldo
            soccer Shaquille_O'Neal basketball Stephen_Curry basketball Kevin_Durant basketball Kareem_Abdul-Jabbar
            basketball Brett_Favre football Aaron_Rodgers football Drew_Brees football Jerry_Rice football Joe_DiMaggio
            baseball Mickey_Mantle baseball Willie_Mays baseball Jackie_Robinson baseball Hank_Aaron baseball
            Venus_Williams tennis Novak_Djokovic tennis Andy_Murray tennis Pete_Sampras tennis Maria_Sharapova tennis
            Steffi_Graf tennis Arnold_Palmer golf Rory_McIlroy golf Gordie_Howe hockey Bobby_Orr hockey Mario_Lemieux
            hockey David_Beckham soccer Diego_Maradona soccer Wayne_Rooney soccer
        """),
    ),
)


class FactualRecall(FramedTask):
    """`count` prompts that ask for a fact about their subject.

    Corruption: another subject of the same relation, whose fact is the wrong answer. Spans: `subject` and `end`.
    """

    name: Literal["factual_recall"] = "factual_recall"

    paper: ClassVar = "arXiv 2304.14767"
    several: ClassVar = frozenset(fact.subjects for fact in FACTS)

    def frames(self) -> Sequence[str]:
        return tuple(fact.sentence for fact in FACTS)

    def lists(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = {}
        for fact in FACTS:
            found[fact.subjects] = [x for x, _ in fact.known]
            found[fact.answers] = list(dict.fromkeys(y for _, y in fact.known))
        return found

    def writer(self, lexicon: Lexicon) -> Writer:
        asked = []
        for fact in FACTS:
            if fact.sentence not in lexicon.frames:
                continue
            known = [
                (x, y)
                for x, y in fact.known
                if lexicon.has(fact.subjects, x) and lexicon.has(fact.answers, y)
            ]
            for x, y in known:
                others = [(a, b) for a, b in known if b != y and lexicon.alike(fact.subjects, x, a)]
                if others:
                    asked.append((fact.sentence, x, y, others))
        self.too_few(lexicon, next(iter(lexicon.sizes)), 2, len(asked))

        def draw(rng: np.random.Generator) -> Filling:
            sentence, subject, answer, others = choice(rng, asked)
            other, wrong = choice(rng, others)
            return Filling(sentence, {"subject": subject}, {"subject": other}, (answer,), (wrong,))

        return draw
