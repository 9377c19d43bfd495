"""Ablations: a recipe's variants times seeds over one store, and the table that compares them."""

from genrec.ablate.ablation import Ablation
from genrec.ablate.grid import Grid, GridError, load_grid
from genrec.ablate.show import console_tables

__all__ = ["Ablation", "Grid", "GridError", "console_tables", "load_grid"]
