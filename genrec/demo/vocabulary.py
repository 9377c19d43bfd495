"""The demo's word tables: categories, brands and traits. Data only.

A word of `COLOURS`, `PATTERNS` or a category's `shapes` stands in an item's text only where the
catalogue says that it is mentioned, so no other word here may be one of them (a test looks).
"""

from __future__ import annotations

from dataclasses import dataclass

# Name in texts and truth -> RGB of the product's main colour.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 50, 46),
    "orange": (236, 132, 44),
    "mustard": (219, 180, 60),
    "green": (72, 138, 76),
    "teal": (36, 148, 156),
    "navy": (40, 62, 124),
    "plum": (132, 62, 124),
    "charcoal": (74, 76, 84),
}
# Pattern in the truth -> its word in texts.
PATTERNS: dict[str, str] = {
    "solid": "plain",
    "stripes": "striped",
    "dots": "dotted",
    "checks": "checked",
    "zigzag": "zigzag",
    "floral": "floral",
}
SILHOUETTES = ("tall", "round", "boxy")
TIERS = ("everyday", "classic", "premium")  # told by the brand and, roughly, by the price


@dataclass(frozen=True)
class Category:
    """What products of one kind are called and made of.

    Attributes:
        nouns: names in titles; materials: words that fit before a noun.
        shapes: the word in texts for each of `SILHOUETTES`.
        sizes: endings of titles; features: plain sentences about the product.
        price: lowest and highest, of the middle tier.
        leads_to: what people buy after it, the usual one first.
    """

    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    shapes: tuple[str, str, str]
    sizes: tuple[str, ...]
    features: tuple[str, ...]
    price: tuple[int, int]
    leads_to: tuple[str, str]


CATEGORIES: dict[str, Category] = {
    "tent": Category(
        ("Tent", "Trail Tent", "Shelter"),
        ("Ripstop", "Polycotton", "Nylon"),
        ("tipi", "dome", "cabin"),
        ("2 Person", "3 Person", "4 Person"),
        (
            "Two doors and a mesh inner keep the air moving.",
            "The seams are taped and the groundsheet reaches up the walls.",
            "Four guy lines and ten alloy pegs are included.",
        ),
        (110, 340),
        ("lamp", "bottle"),
    ),
    "lamp": Category(
        ("Lamp", "Light", "Reading Lamp"),
        ("Linen", "Glass", "Steel", "Bamboo"),
        ("slender", "globe", "drum-shaded"),
        ("E14", "LED", "Dimmable"),
        (
            "Three brightness steps are set with a touch of the base.",
            "The cable is two metres long and wrapped in cotton.",
            "A warm LED bulb is included and can be replaced.",
        ),
        (28, 120),
        ("cushion", "notebook"),
    ),
    "cushion": Category(
        ("Cushion", "Throw Pillow", "Seat Cushion"),
        ("Linen", "Wool", "Velvet", "Cotton"),
        ("oblong", "circular", "square"),
        ("40 cm", "45 cm", "50 cm"),
        (
            "The cover comes off with a hidden zip.",
            "The filling springs back after every use.",
            "Double-stitched edges keep it in form.",
        ),
        (16, 60),
        ("planter", "mug"),
    ),
    "planter": Category(
        ("Planter", "Plant Pot", "Flowerpot"),
        ("Stoneware", "Concrete", "Bamboo"),
        ("upright", "bowl-shaped", "trough"),
        ("14 cm", "18 cm", "24 cm"),
        (
            "A drainage hole and a matching saucer come with it.",
            "It is sealed on the inside and frost-proof.",
            "Felt pads protect the surface below.",
        ),
        (14, 58),
        ("mug", "lamp"),
    ),
    "mug": Category(
        ("Mug", "Coffee Mug", "Tea Cup"),
        ("Stoneware", "Enamel", "Porcelain", "Steel"),
        ("high-sided", "bellied", "squat"),
        ("300 ml", "350 ml", "450 ml"),
        (
            "The handle leaves room for three fingers.",
            "Glazed inside and out and safe in the microwave.",
            "The foot is sanded so that it does not scratch the table.",
        ),
        (9, 34),
        ("notebook", "cushion"),
    ),
    "notebook": Category(
        ("Notebook", "Journal", "Sketchbook"),
        ("Linen", "Cork", "Cotton", "Hemp"),
        ("narrow", "soft-cornered", "ring-bound"),
        ("120 Pages", "192 Pages", "240 Pages"),
        (
            "Thread-bound sheets of 100 g paper, faintly ruled.",
            "A back pocket and two page markers keep things in place.",
            "The cover bends without creasing.",
        ),
        (7, 29),
        ("backpack", "mug"),
    ),
    "backpack": Category(
        ("Backpack", "Daypack", "Rucksack"),
        ("Canvas", "Nylon", "Hemp", "Ripstop"),
        ("roll-top", "curved", "box-cut"),
        ("16 L", "20 L", "26 L"),
        (
            "A padded sleeve takes a 15 inch laptop.",
            "The straps are broad and breathe well.",
            "A front pocket keeps keys and cards apart.",
        ),
        (38, 150),
        ("bottle", "umbrella"),
    ),
    "bottle": Category(
        ("Bottle", "Water Bottle", "Flask"),
        ("Steel", "Glass", "Bioplastic"),
        ("slim", "bulbous", "broad-shouldered"),
        ("500 ml", "750 ml", "1 L"),
        (
            "The lid seals with half a turn and never drips.",
            "Wide enough for ice cubes and a brush.",
            "It leaves no taste, whatever was in it yesterday.",
        ),
        (12, 46),
        ("sneaker", "backpack"),
    ),
    "sneaker": Category(
        ("Sneakers", "Trainers", "Shoes"),
        ("Canvas", "Suede", "Hemp", "Mesh"),
        ("high-top", "slip-on", "chunky"),
        ("EU 38", "EU 41", "EU 43"),
        (
            "The insole is moulded and can be taken out.",
            "Natural rubber grips on wet stone.",
            "The heel is padded where others rub.",
        ),
        (45, 160),
        ("jacket", "bottle"),
    ),
    "jacket": Category(
        ("Jacket", "Coat", "Anorak"),
        ("Nylon", "Wool", "Down", "Cotton"),
        ("long-cut", "puffy", "cropped"),
        ("Size S", "Size M", "Size L"),
        (
            "Two inside pockets close with zips.",
            "The cuffs adjust with one pull.",
            "A two-way zip makes sitting down easy.",
        ),
        (70, 280),
        ("beanie", "umbrella"),
    ),
    "beanie": Category(
        ("Beanie", "Hat", "Winter Cap"),
        ("Wool", "Cotton", "Jersey"),
        ("peaked", "close-fitting", "deep-cuffed"),
        ("One Size", "Size M", "Size L"),
        (
            "Ribbed all the way so that it never slips.",
            "A soft inner band keeps it from itching.",
            "It goes in the wash with everything else.",
        ),
        (14, 48),
        ("jacket", "sneaker"),
    ),
    "umbrella": Category(
        ("Umbrella", "Rain Umbrella", "Parasol"),
        ("Nylon", "Bamboo", "Cotton"),
        ("bell-shaped", "arched", "fan-ribbed"),
        ("98 cm", "105 cm", "120 cm"),
        (
            "Eight fibreglass ribs bend in a gust and come back.",
            "It opens at the press of a button.",
            "The canopy sheds water with one shake.",
        ),
        (17, 70),
        ("tent", "sneaker"),
    ),
}

# Each brand belongs to one tier (its place in the table) and makes every second category.
BRANDS: tuple[tuple[str, ...], ...] = (
    ("Pikko", "Daylo", "Homi", "Basiq", "Trundle", "Okwin", "Tavo", "Mellu"),
    ("Fernholt", "Arlund", "Maren & Co", "Brookvale", "Tesari", "Oldwick", "Calder", "Sorrel"),
    ("Aurvik", "Maison Lorne", "Kessho", "Veyra", "Ostrander", "Halcyne", "Noctua", "Elmgard"),
)
MODELS = (
    *("Anda", "Bero", "Corva", "Dale", "Esker", "Fjell", "Garda", "Hollis", "Ilva", "Jura"),
    *("Kito", "Lumo", "Mira", "Nori", "Osta", "Pella", "Quill", "Rana", "Sella", "Tarn"),
    *("Una", "Vesta", "Wren", "Xeno", "Yarrow", "Zuri", "Alder", "Birk", "Cove", "Dune"),
    *("Elio", "Fable", "Grove", "Haven", "Isla", "Juno", "Kelda", "Loft", "Moss", "Nova"),
)
OPENERS = (
    "The {brand} {model} is {a_material} {noun} for people who use their things every day.",
    "{brand} has been making this {noun} in {material} for years, and the {model} is its latest.",
    "{A_material} {noun} that does what it should: the {model} by {brand}.",
    "Meet {model}, {a_noun} by {brand}, made of {material}.",
    "With the {model}, {brand} went back to the drawing board: {a_noun} in {material}, "
    "thought through to the last detail.",
    "Our buyers chose the {model} from {brand} out of thirty others: {a_noun} in {material}.",
)
LOOKS = (
    "This one is {look}.",
    "It comes {look}, as pictured.",
    "The version shown here is {look}.",
    "In the picture: the {look} version.",
)
CLOSERS = (
    "Two-year guarantee.",
    "Ships within two days.",
    "Designed in Ghent, made in Portugal.",
    "Returns are free for thirty days.",
    "A small batch every season.",
    "Wipe with a damp cloth.",
    "",
    "",
)
