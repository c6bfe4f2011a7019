"""A word in another language, in context (Todd et al., arXiv 2310.15213).

    English: water French: eau ...  English: house French:  ->  maison

Knows a few words of three languages. Which of them a tokenizer has as one token is its own business: those of English
texts have few.
"""

from typing import ClassVar, Literal

from pipeline.tasks.relation import Relation

_WORDS = """
    water eau agua Wasser, house maison casa Haus, king roi rey König, queen reine reina Königin, man homme
    hombre Mann, woman femme mujer Frau, world monde mundo Welt, day jour día Tag, night nuit noche Nacht, life
    vie vida Leben, time temps tiempo Zeit, book livre libro Buch, city ville ciudad Stadt, sun soleil sol
    Sonne, moon lune luna Mond, sea mer mar Meer, land terre tierra Land, bread pain pan Brot, wine vin vino
    Wein, friend ami amigo Freund, brother frère hermano Bruder, sister sœur hermana Schwester, father père
    padre Vater, mother mère madre Mutter, god dieu dios Gott, love amour amor Liebe, death mort muerte Tod, war
    guerre guerra Krieg, peace paix paz Frieden, white blanc blanco weiß, black noir negro schwarz, red rouge
    rojo rot, green vert verde grün, blue bleu azul blau, big grand grande groß, small petit pequeño klein, good
    bon bueno gut, bad mauvais malo schlecht, new nouveau nuevo neu, one un uno eins, two deux dos zwei, three
    trois tres drei, four quatre cuatro vier, five cinq cinco fünf, school école escuela Schule, street rue
    calle Straße, hand main mano Hand, head tête cabeza Kopf, year an año Jahr, work travail trabajo Arbeit,
    people gens gente Volk, thing chose cosa Ding, word mot palabra Wort, fire feu fuego Feuer, tree arbre árbol
    Baum, horse cheval caballo Pferd, dog chien perro Hund, cat chat gato Katze, fish poisson pez Fisch, milk
    lait leche Milch, where où dónde wo, with avec con mit, without sans sin ohne, for pour para für, and et y
    und, is est es ist, no non no nein, yes oui sí ja, very très muy sehr, more plus más mehr, all tout todo
    alles
"""
_ROWS = [row.split() for row in _WORDS.split(",")]
_COLUMN = {"french": 1, "spanish": 2, "german": 3}


class Translation(Relation):
    """`count` prompts that ask for an English word `into` another language, after `shots` others.

    Corruption: another word (`subject`), or the shots' answers exchanged (`shuffled`).
    """

    name: Literal["translation"] = "translation"
    into: Literal["french", "spanish", "german"] = "french"

    paper: ClassVar = "arXiv 2310.15213"

    @property
    def known(self) -> tuple[tuple[str, str], ...]:
        return tuple((row[0], row[_COLUMN[self.into]]) for row in _ROWS)

    @property
    def spoken(self) -> tuple[tuple[str, str], ...]:
        language = self.into.capitalize()
        return (
            (f"English: {{x}}, {language}: {{y}}.", " "),
            (f"The {language} word for {{x}} is {{y}}.", " "),
        )
