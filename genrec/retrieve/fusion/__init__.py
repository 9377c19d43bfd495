"""Several systems' lists to one, with what each knows alone kept as far as it helps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
