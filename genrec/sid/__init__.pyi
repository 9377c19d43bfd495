from .codes import (
    collision_rate as collision_rate,
    duplicate_rate as duplicate_rate,
    format_sid as format_sid,
    parse_token as parse_token,
    resolve_collisions as resolve_collisions,
    token_name as token_name,
)
from .published import PublishedSIDs as PublishedSIDs
from .quantizer import (
    MadeSIDs as MadeSIDs,
    Quantizer as Quantizer,
    load_codebooks as load_codebooks,
    load_quantizer as load_quantizer,
)
from .rkmeans import RKMeans as RKMeans
from .rqvae import RQVAE as RQVAE
from .sets import SIDSets as SIDSets
from .stats import sid_stats as sid_stats
from .trie import SIDTrie as SIDTrie
