"""The demo's products as drawings: one function per category, three silhouettes each.

Coordinates are those of `render.Shape`; every product stands near y = 0.9.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from genrec.demo.render import (
    CREAM,
    INK,
    METAL,
    WHITE,
    WOOD,
    Canvas,
    Shape,
    blob,
    box,
    line,
    oval,
    poly,
)

LEAF = (96, 134, 92)
LIGHT = (255, 244, 200)


def _lamp(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.part(INK, line("50,30 50,88", width=0.022))
        c.part(INK, box(0.38, 0.87, 0.62, 0.92, r=0.02))
        c.body(poly("42,8 58,8 70,38 30,38"))
        c.flat(LIGHT, oval(0.31, 0.36, 0.69, 0.40))
    elif shape == "round":
        c.body(oval(0.22, 0.12, 0.78, 0.68))
        c.part(METAL, box(0.42, 0.67, 0.58, 0.75))
        c.part(WOOD, poly("40,74 60,74 70,91 30,91"))
        c.flat((255, 250, 225), oval(0.32, 0.20, 0.46, 0.32), opacity=0.55)
    else:
        c.part(METAL, line("50,50 50,66", width=0.03))
        c.part(WOOD, box(0.36, 0.64, 0.64, 0.91, r=0.03))
        c.body(box(0.18, 0.14, 0.82, 0.54, r=0.02))
        c.flat(LIGHT, line("20,53 80,53", width=0.022))


def _cushion(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.body(blob("30,10 50,13 70,10 68,50 70,90 50,87 30,90 32,50"))
        for y in (0.17, 0.83):
            c.flat(c.dark, line((0.32, y), (0.68, y), width=0.022))
    elif shape == "round":
        c.body(oval(0.12, 0.14, 0.88, 0.90))
        for angle in np.arange(8) * np.pi / 4:
            end = (0.5 + 0.30 * float(np.cos(angle)), 0.52 + 0.30 * float(np.sin(angle)))
            c.flat(INK, line((0.5, 0.52), end, width=0.010), opacity=0.35)
        c.part(c.dark, oval(0.455, 0.475, 0.545, 0.565))
    else:
        c.body(blob("10,16 50,21 90,16 85,53 90,90 50,85 10,90 15,53"))
        for x, y in ((0.11, 0.17), (0.89, 0.17), (0.11, 0.89), (0.89, 0.89)):
            c.part(c.accent, oval(x - 0.035, y - 0.035, x + 0.035, y + 0.035))


def _planter(c: Canvas, shape: str) -> None:
    if shape == "tall":
        for x, y in ((0.36, 0.18), (0.45, 0.05), (0.54, 0.10), (0.63, 0.20)):
            c.part(
                LEAF,
                blob(
                    (0.48, 0.50), (x - 0.04, y + 0.16), (x, y), (x + 0.04, y + 0.16), (0.52, 0.50)
                ),
            )
        c.body(poly("30,42 70,42 63,91 37,91"))
        c.part(c.dark, box(0.28, 0.40, 0.72, 0.47, r=0.02))
    elif shape == "round":
        for x, y, r in (
            (0.34, 0.34, 0.13),
            (0.64, 0.33, 0.14),
            (0.49, 0.24, 0.16),
            (0.48, 0.42, 0.13),
        ):
            c.part(LEAF, oval(x - r, y - r, x + r, y + r))
        c.body(blob("18,50 22,76 40,90 60,90 78,76 82,50"))
        c.part(c.dark, box(0.16, 0.46, 0.84, 0.53, r=0.03))
    else:
        for x, y in ((0.26, 0.22), (0.50, 0.14), (0.74, 0.26)):
            c.part(LEAF, box(x - 0.06, y, x + 0.06, 0.58, r=0.06))
            c.part(
                LEAF,
                line((x + 0.05, y + 0.20), (x + 0.11, y + 0.20), (x + 0.11, y + 0.10), width=0.045),
            )
        c.body(box(0.10, 0.52, 0.90, 0.90, r=0.02))
        c.part(c.dark, box(0.08, 0.50, 0.92, 0.57, r=0.01))


def _mug(c: Canvas, shape: str) -> None:
    left, top, right, bottom = {
        "tall": (0.33, 0.14, 0.63, 0.88),
        "round": (0.24, 0.34, 0.68, 0.86),
        "boxy": (0.16, 0.42, 0.70, 0.84),
    }[shape]
    height = bottom - top
    handle = [
        (right - 0.02, top + 0.22 * height),
        (right + 0.13, top + 0.25 * height),
        (right + 0.14, top + 0.55 * height),
        (right - 0.02, top + 0.72 * height),
    ]
    c.part(c.dark, line(*handle, width=0.05, smooth=True))
    if shape == "round":
        bulge = [(left - 0.05, 0.62), (left + 0.06, bottom), (right - 0.06, bottom)]
        c.body(blob((left + 0.03, top), *bulge, (right + 0.05, 0.62), (right - 0.03, top)))
        left, right = left + 0.03, right - 0.03
    else:
        c.body(box(left, top, right, bottom, r=0.05), oval(left, bottom - 0.08, right, bottom))
    c.part(c.dark, oval(left, top - 0.05, right, top + 0.05))
    c.flat((70, 44, 30), oval(left + 0.03, top - 0.02, right - 0.03, top + 0.04))


def _notebook(c: Canvas, shape: str) -> None:
    left, top, right, bottom = {
        "tall": (0.32, 0.10, 0.66, 0.90),
        "round": (0.22, 0.16, 0.74, 0.88),
        "boxy": (0.16, 0.18, 0.82, 0.88),
    }[shape]
    radius = 0.10 if shape == "round" else 0.015
    c.part(CREAM, box(left + 0.03, top + 0.025, right + 0.035, bottom + 0.02, r=radius))
    c.body(box(left, top, right, bottom, r=radius))
    if shape == "tall":
        for x in np.linspace(left + 0.04, right - 0.04, 6):
            c.part(METAL, line((float(x), top - 0.03), (float(x), top + 0.05), width=0.022))
    elif shape == "round":
        c.flat(INK, line((right - 0.08, top), (right - 0.08, bottom), width=0.022))
        c.part(c.dark, line((0.45, bottom), (0.45, bottom + 0.06), width=0.02))
    else:
        for y in np.linspace(top + 0.05, bottom - 0.05, 9):
            c.part(METAL, line((left - 0.04, float(y)), (left + 0.05, float(y)), width=0.022))
    middle = (left + right) / 2 - (0.03 if shape == "round" else 0)
    c.part(CREAM, box(middle - 0.12, top + 0.14, middle + 0.12, top + 0.28))
    for y in (0.19, 0.23):
        c.flat(INK, line((middle - 0.08, top + y), (middle + 0.08, top + y), width=0.010))


def _bottle(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.part(METAL, box(0.43, 0.08, 0.57, 0.19, r=0.02))
        c.body(poly("44,18 56,18 60,32 60,60 40,60 40,32"), box(0.40, 0.50, 0.60, 0.90, r=0.05))
    elif shape == "round":
        c.part(METAL, box(0.43, 0.13, 0.57, 0.22, r=0.02))
        c.body(box(0.44, 0.21, 0.56, 0.50), oval(0.25, 0.38, 0.75, 0.90))
    else:
        c.part(INK, line("42,22 42,11 58,11 58,22", width=0.035))
        c.part(METAL, box(0.38, 0.19, 0.62, 0.30, r=0.02))
        c.body(box(0.28, 0.29, 0.72, 0.90, r=0.07))


HOME: dict[str, Callable[[Canvas, str], None]] = {
    "lamp": _lamp,
    "cushion": _cushion,
    "planter": _planter,
    "mug": _mug,
    "notebook": _notebook,
    "bottle": _bottle,
}


def _tent(c: Canvas, shape: str) -> None:
    if shape == "tall":
        for x in (0.42, 0.58):
            c.part(WOOD, line((0.5, 0.16), (x, 0.04), width=0.02))
        c.body(poly("50,12 86,90 14,90"))
        door = poly("50,40 61,90 39,90")
    elif shape == "round":
        c.body(blob("6,88 14,58 34,36 50,32 66,36 86,58 94,88"))
        c.flat(INK, line("8,86 40,37 66,60 76,88", width=0.014, smooth=True))
        door = blob("40,89 42,62 50,55 58,62 60,89")
    else:
        c.body(poly("10,90 10,50 26,26 74,26 90,50 90,90"))
        c.part(c.dark, poly("6,52 24,22 76,22 94,52"))
        c.part(WHITE, box(0.68, 0.58, 0.82, 0.72))
        door = box(0.28, 0.56, 0.54, 0.90)
    c.flat(INK, door)
    c.flat(c.dark, _flap(door))
    for x in (0.03, 0.97):
        c.flat(INK, line((x, 0.90), (0.5 + (x - 0.5) * 0.72, 0.70), width=0.007))


def _flap(door: Shape) -> Shape:
    """The part of a tent's door that hangs at its left."""
    xs, ys = [x for x, _ in door.points], [y for _, y in door.points]
    middle = (min(xs) + max(xs)) / 2
    return poly((middle, min(ys)), (min(xs) + 0.02, max(ys)), (middle - 0.05, max(ys)))


def _backpack(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.part(c.dark, line("27,40 20,58 27,82", width=0.05, smooth=True))
        c.body(box(0.28, 0.24, 0.70, 0.91, r=0.05))
        c.part(c.dark, poly("28,30 33,10 65,10 70,30"))
        c.part(WOOD, box(0.47, 0.10, 0.52, 0.44), box(0.45, 0.36, 0.54, 0.42))
        c.flat(INK, line("33,66 65,66", width=0.014))
    elif shape == "round":
        c.part(INK, line("43,17 50,8 57,17", width=0.03, smooth=True))
        c.part(c.dark, line("24,42 16,60 24,84", width=0.05, smooth=True))
        c.body(blob("24,85 22,48 34,20 50,14 66,20 78,48 76,85 50,91"))
        c.flat(INK, line("28,46 36,27 50,21 64,27 72,46", width=0.012, smooth=True))
        c.part(c.base, box(0.31, 0.57, 0.69, 0.83, r=0.07))
        c.flat(INK, line("35,62 65,62", width=0.012))
    else:
        c.part(INK, line("42,17 42,10 58,10 58,17", width=0.03))
        c.body(box(0.20, 0.16, 0.80, 0.91, r=0.03))
        c.part(c.dark, box(0.18, 0.14, 0.82, 0.44, r=0.03))
        c.part(WOOD, box(0.32, 0.32, 0.37, 0.62), box(0.63, 0.32, 0.68, 0.62))
        c.flat(METAL, box(0.31, 0.54, 0.38, 0.58), box(0.62, 0.54, 0.69, 0.58))


def _sneaker(c: Canvas, shape: str) -> None:
    toe = [(0.62, 0.55), (0.80, 0.60), (0.93, 0.70), (0.93, 0.80)]
    if shape == "tall":
        c.part(c.dark, blob("18,24 30,20 47,24 47,32 20,32"))
        c.body(poly("15,24 50,26 54,46 66,58", *toe[1:], (0.12, 0.82)))
        c.part(WHITE, box(0.09, 0.79, 0.95, 0.88, r=0.03))
        laces = [(0.44, 0.30 + 0.085 * i) for i in range(4)]
    elif shape == "round":
        c.part(INK, oval(0.14, 0.50, 0.50, 0.66))
        c.body(blob("10,80 8,62 16,55 34,64 52,56 74,58 92,70 93,82"))
        c.part(WHITE, box(0.07, 0.79, 0.95, 0.85, r=0.02))
        laces = []
        c.part(c.dark, poly("40,62 48,58 54,72 46,72"))
    else:
        c.part(c.dark, blob("12,42 24,38 42,44 42,52 14,52"))
        c.body(poly("10,42 26,48 44,43 62,50", *toe[1:], (0.08, 0.78)))
        c.part(WHITE, poly("5,72 96,72 98,90 80,92 8,92 3,80"))
        c.flat(c.base, line("6,82 96,82", width=0.02))
        laces = [(0.46 + 0.06 * i, 0.46 + 0.025 * i) for i in range(3)]
    for x, y in laces:
        c.flat(WHITE, line((x - 0.02, y + 0.05), (x + 0.09, y), width=0.02))


def _jacket(c: Canvas, shape: str) -> None:
    hem, sleeve, puff = {
        "tall": (0.94, 0.66, 0.0),
        "round": (0.80, 0.70, 0.05),
        "boxy": (0.66, 0.66, 0.01),
    }[shape]
    for side in (-1, 1):
        x = [0.5 + side * d for d in (0.16, 0.30 + puff, 0.34 + puff, 0.25, 0.19)]
        arm = [(x[0], 0.18), (x[1], 0.32), (x[2], sleeve), (x[3], sleeve + 0.02), (x[4], 0.42)]
        c.body(blob(*arm) if puff > 0.02 else poly(*arm))
        cuff = line((x[2] - side * 0.01, sleeve), (x[3], sleeve + 0.02), width=0.045)
        c.part(c.dark, cuff)
    wide = 0.21 + puff
    c.body(
        poly(
            "34,17 66,17",
            (0.5 + wide - 0.02, 0.36),
            (0.5 + wide, hem),
            (0.5 - wide, hem),
            (0.5 - wide + 0.02, 0.36),
        )
    )
    if shape == "round":
        for y in (0.33, 0.45, 0.57, 0.69):
            c.flat(
                INK,
                line((0.26, y), (0.5, y + 0.02), (0.74, y), width=0.014, smooth=True),
                opacity=0.55,
            )
    if shape == "boxy":
        c.part(c.dark, box(0.5 - wide, hem - 0.07, 0.5 + wide, hem + 0.01))
    if shape == "tall":
        c.part(c.dark, line("29,52 71,52", width=0.04))
    c.part(c.dark, blob("38,20 40,10 60,10 62,20 50,24"))
    c.flat(INK, oval(0.43, 0.12, 0.57, 0.19))
    c.flat(METAL, line((0.5, 0.21), (0.5, hem), width=0.016))


def _beanie(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.body(blob("24,74 30,46 46,22 54,22 70,46 76,74"))
        c.part(CREAM, oval(0.41, 0.06, 0.59, 0.25))
        cuff = (0.72, 0.88)
    elif shape == "round":
        c.body(blob("18,76 20,50 36,33 64,33 80,50 82,76"))
        cuff = (0.74, 0.83)
    else:
        c.body(box(0.20, 0.22, 0.80, 0.76, r=0.14))
        cuff = (0.66, 0.88)
    edge = 0.18 if shape != "tall" else 0.21
    c.part(c.dark, box(edge, cuff[0], 1 - edge, cuff[1], r=0.03))
    for x in np.linspace(edge + 0.05, 0.95 - edge, 11):
        rib = line((float(x), cuff[0] + 0.02), (float(x), cuff[1] - 0.02), width=0.009)
        c.flat(INK, rib, opacity=0.45)


def _umbrella(c: Canvas, shape: str) -> None:
    edge, top, width = {
        "tall": (0.62, 0.06, 0.27),
        "round": (0.48, 0.12, 0.40),
        "boxy": (0.44, 0.24, 0.45),
    }[shape]
    foot = 0.84
    c.part(METAL, line((0.5, top - 0.04), (0.5, foot), width=0.018))
    hook = [(0.5, foot - 0.06), (0.5, foot + 0.03), (0.55, foot + 0.07), (0.61, foot + 0.03)]
    c.part(WOOD, line(*hook, width=0.038, smooth=True))
    x0, x1 = 0.5 - width, 0.5 + width
    if shape == "boxy":
        canopy = poly((x0, edge), (0.5 - 0.22, top), (0.5 + 0.22, top), (x1, edge))
    else:
        bow = (0.5 - 0.78 * width, top + 0.25 * (edge - top))
        canopy = blob((x0, edge), bow, (0.5, top), (1 - bow[0], bow[1]), (x1, edge))
    hems = np.linspace(x0, x1, 5)
    scallops = [oval(float(a), edge - 0.05, float(b), edge + 0.06) for a, b in pairwise(hems)]
    below = box(0, edge, 1, 1)
    c.body(canopy, minus=[below, *scallops])
    for x in hems[1:-1]:
        c.flat(INK, line((0.5, top), (float(x), edge - 0.01), width=0.009), opacity=0.5)


OUTDOOR: dict[str, Callable[[Canvas, str], None]] = {
    "tent": _tent,
    "backpack": _backpack,
    "sneaker": _sneaker,
    "jacket": _jacket,
    "beanie": _beanie,
    "umbrella": _umbrella,
}
