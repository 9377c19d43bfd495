from .codes import (
    collision_rate as collision_rate,
    duplicate_rate as duplicate_rate,
    format_sid as format_sid,
    parse_token as parse_token,
    published_stats as published_stats,
    resolve_collisions as resolve_collisions,
    sid_stats as sid_stats,
    token_name as token_name,
)
from .quantizer import Quantizer as Quantizer, load_quantizer as load_quantizer
from .rkmeans import RKMeans as RKMeans
from .rqvae import RQVAE as RQVAE
from .trie import SIDTrie as SIDTrie
