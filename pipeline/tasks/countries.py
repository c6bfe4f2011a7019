"""Countries with their capitals and languages, as public reference works have them. Where a capital or a language is in
dispute, or there are several, the field is `-`. Knows facts alone."""

from pipeline.tasks.relation import Table

_COUNTRIES = """
    France Paris French, Japan Tokyo Japanese, Italy Rome Italian, Spain Madrid Spanish, Germany Berlin German,
    Russia Moscow Russian, China Beijing Chinese, Egypt Cairo Arabic, Greece Athens Greek, Portugal Lisbon Portuguese,
    Poland Warsaw Polish, Austria Vienna German, Sweden Stockholm Swedish, Norway Oslo Norwegian,
    Denmark Copenhagen Danish, Finland Helsinki Finnish, England London English, Turkey Ankara Turkish,
    Iran Tehran Persian, Iraq Baghdad Arabic, Syria Damascus Arabic, Cuba Havana Spanish, Peru Lima Spanish,
    Chile Santiago Spanish, Canada Ottawa -, Kenya Nairobi -, Thailand Bangkok Thai, Vietnam Hanoi Vietnamese,
    South_Korea Seoul Korean, North_Korea Pyongyang Korean, Hungary Budapest Hungarian, Belgium Brussels -,
    Ukraine Kyiv Ukrainian, Colombia Bogotá Spanish, Argentina - Spanish, Mexico - Spanish, Lebanon Beirut Arabic,
    Afghanistan Kabul -, Pakistan Islamabad -, Indonesia Jakarta Indonesian, Jordan Amman Arabic, Libya Tripoli Arabic,
    Tunisia Tunis Arabic, Scotland Edinburgh English, Wales Cardiff -, Ireland Dublin -, Serbia Belgrade Serbian,
    Croatia Zagreb Croatian, Bulgaria Sofia Bulgarian, Romania Bucharest Romanian, Nepal Kathmandu Nepali,
    Venezuela Caracas Spanish, Qatar Doha Arabic, Brazil - Portuguese, Australia Canberra English,
    Taiwan Taipei Chinese, Ecuador Quito Spanish, Cambodia - Khmer, Bangladesh Dhaka Bengali, Saudi_Arabia Riyadh Arabic
"""
_ROWS = [[word.replace("_", " ") for word in row.split()] for row in _COUNTRIES.split(",")]
CAPITALS: Table = tuple((country, capital) for country, capital, _ in _ROWS if capital != "-")
LANGUAGES: Table = tuple((country, language) for country, _, language in _ROWS if language != "-")
