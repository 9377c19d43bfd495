"""The demo's latent interests: who would want a product, and why. Data only.

Texts never use an interest's own wording; at most they carry one of its hints, from which a reader
(or a language model) can infer it. That is what mining interests has to recover.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interest:
    """One reason to want a product.

    Attributes:
        wording: who and why; kept in the truth, never in a text.
        categories: where it occurs, the most typical first.
        materials: materials that make it twice as likely.
        hints: sentences that fit any of those categories.
    """

    wording: str
    categories: tuple[str, ...]
    materials: tuple[str, ...]
    hints: tuple[str, str, str]


def _interest(wording: str, categories: str, materials: str, *hints: str) -> Interest:
    first, second, third = hints
    return Interest(
        wording, tuple(categories.split()), tuple(materials.split()), (first, second, third)
    )


INTERESTS: dict[str, Interest] = {
    "winter_camping": _interest(
        "staying warm on snowy camping weekends",
        "tent bottle jacket beanie mug",
        "Steel Wool Down Enamel",
        "Tested for nine nights above the treeline in January.",
        "Works just as well at minus twelve.",
        "Easy to handle with thick gloves on.",
    ),
    "bike_commute": _interest(
        "cycling to work in every weather",
        "backpack jacket bottle sneaker umbrella",
        "Nylon Hemp Ripstop",
        "Reflective piping catches the headlights behind you.",
        "Stays put over cobbles and kerbs.",
        "Dry again on the hook before the first meeting.",
    ),
    "small_flat": _interest(
        "making the most of a tiny apartment",
        "lamp planter cushion umbrella mug",
        "Bamboo Concrete Cotton",
        "Needs barely a hand's width of shelf.",
        "Fits the gap beside the radiator.",
        "Tucks away behind a door when visitors come.",
    ),
    "exam_study": _interest(
        "getting through long nights of exam revision",
        "notebook lamp mug backpack cushion",
        "Cotton Hemp Canvas",
        "A favourite of second-semester students.",
        "Still good company when the library closes.",
        "Made with lecture halls and highlighter pens in mind.",
    ),
    "new_parent": _interest(
        "coping one-handed with a newborn",
        "bottle mug cushion backpack lamp",
        "Cotton Steel Porcelain",
        "Can be used with a thumb while the other arm is busy.",
        "Quiet enough not to wake anybody at three in the morning.",
        "Wipes clean of almost anything that dribbles.",
    ),
    "grandparent_gift": _interest(
        "finding a present for elderly relatives",
        "umbrella cushion mug beanie lamp",
        "Wool Porcelain Velvet",
        "Kind to stiff fingers.",
        "Comes in a ribboned box with a card.",
        "No small parts, no manual, nothing to charge.",
    ),
    "minimalism": _interest(
        "furnishing rooms in calm Nordic minimalism",
        "planter lamp notebook cushion mug",
        "Linen Concrete Stoneware",
        "There is no logo anywhere you can see.",
        "One seam, one joint, nothing else.",
        "Meant to be overlooked until it is needed.",
    ),
    "planet_first": _interest(
        "shopping without harming the planet",
        "sneaker bottle backpack notebook jacket",
        "Hemp Cork Bioplastic",
        "Spun partly from discarded fishing nets.",
        "Spare parts are kept for ten years.",
        "Packed in nothing but a paper band.",
    ),
    "carry_on": _interest(
        "flying around the world with hand luggage only",
        "backpack umbrella jacket bottle sneaker",
        "Nylon Ripstop Mesh",
        "Slips under the seat in front.",
        "Weighs less than a paperback.",
        "Passes the measuring frame at every gate.",
    ),
    "marathon": _interest(
        "training for a first marathon",
        "sneaker bottle beanie jacket backpack",
        "Mesh Jersey Nylon",
        "Does not bounce, rub or slosh.",
        "As good at kilometre thirty as at the third.",
        "Breathes when the pulse goes up.",
    ),
    "festival": _interest(
        "dancing through muddy summer concerts",
        "tent backpack umbrella sneaker bottle",
        "Polycotton Canvas",
        "Hose it down on Monday and it is as new.",
        "Easy to find again among thousands.",
        "Survives three days of stages, queues and rain.",
    ),
    "office_desk": _interest(
        "brightening a dull office workplace",
        "mug notebook planter lamp cushion",
        "Porcelain Glass Cork",
        "Colleagues will ask about it.",
        "Sits happily next to two monitors.",
        "Takes the edge off a day of spreadsheets.",
    ),
    "journaling": _interest(
        "writing a diary to wind down",
        "notebook lamp cushion mug",
        "Linen Cork Velvet",
        "A quiet half hour is all it asks for.",
        "Goes well with fountain ink and no phone.",
        "For the thoughts that come after supper.",
    ),
    "dog_walks": _interest(
        "walking the dog at dawn in any season",
        "jacket umbrella beanie sneaker",
        "Cotton Suede",
        "Shrugs off wet paws and brambles.",
        "Ready by the door before sunrise.",
        "Pairs with a lead and a bag of treats.",
    ),
    "houseplants": _interest(
        "raising tropical houseplants successfully",
        "planter lamp bottle notebook",
        "Stoneware Glass",
        "A fern got through two weeks of holiday with it.",
        "Made with humidity and roots in mind.",
        "Recommended by the botanical garden's shop.",
    ),
    "schoolchild": _interest(
        "sending children off to primary school",
        "backpack beanie umbrella bottle sneaker",
        "Canvas Cotton",
        "There is a name label inside.",
        "Stands up to the playground.",
        "Sized for people under one metre forty.",
    ),
    "photography": _interest(
        "hiking out for landscape photography",
        "backpack jacket tent beanie",
        "Ripstop Canvas",
        "There is a place for a lens cloth and a spare battery.",
        "Keeps still on windy ridges.",
        "Good for long waits until the light is right.",
    ),
    "reading_nook": _interest(
        "curling up with novels on rainy Sundays",
        "cushion lamp mug planter",
        "Velvet Wool Linen",
        "Good for three more chapters.",
        "Made for window seats and armchairs.",
        "Best with a blanket and nowhere to be.",
    ),
    "dinner_host": _interest(
        "entertaining guests at home with style",
        "planter cushion lamp mug",
        "Glass Porcelain Velvet",
        "Looks its best by candlelight.",
        "Also sold as a set of six, matched by hand.",
        "Something to talk about between two courses.",
    ),
    "angling": _interest(
        "waiting patiently by the river for trout",
        "tent umbrella jacket beanie bottle",
        "Polycotton Wool",
        "Makes no sound that would startle anything.",
        "Scales and slime rinse off.",
        "At home on a misty bank before first light.",
    ),
    "streetwear": _interest(
        "standing out with bold city fashion",
        "sneaker beanie jacket backpack",
        "Suede Jersey Nylon",
        "Released in a numbered run.",
        "Goes with the loudest thing you own.",
        "Seen on half the queue outside the gallery.",
    ),
    "van_life": _interest(
        "living on the road in a converted camper",
        "mug lamp tent cushion bottle",
        "Enamel Steel Bamboo",
        "Does not rattle on gravel.",
        "Stows behind the driver's seat.",
        "Needs no mains and no tap.",
    ),
    "yoga": _interest(
        "practising yoga and breathing at home",
        "cushion bottle lamp notebook",
        "Cotton Bamboo Glass",
        "Belongs on the floor beside a rolled mat.",
        "Made for slow mornings and bare feet.",
        "Nothing about it rustles, clinks or glares.",
    ),
    "stargazing": _interest(
        "watching stars on clear nights",
        "tent beanie jacket mug notebook",
        "Down Wool Enamel",
        "Dew beads on it and runs off by morning.",
        "Made for lying still and looking up.",
        "Popular with people who know when the moon sets.",
    ),
}
