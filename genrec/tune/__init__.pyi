from .space import Space as Space, SpaceError as SpaceError, load_space as load_space
from .tuning import Tuning as Tuning
