"""`python -m genrec`, so that `accelerate launch -m genrec train RECIPE` works."""

from genrec.cli import main

main()
