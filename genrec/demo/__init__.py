"""A made-up shop to try everything on: seeded, with drawn images and known ground truth."""

from genrec.demo.shop import make_demo

__all__ = ["make_demo"]
