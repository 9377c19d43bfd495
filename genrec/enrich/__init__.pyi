from .behaviour import behaviour_view as behaviour_view
from .descriptors import describe_images as describe_images
from .embed import (
    encode_queries as encode_queries,
    encode_texts as encode_texts,
    item_text as item_text,
    late_fusion as late_fusion,
    load_encoder as load_encoder,
)
from .joint import encode_joint as encode_joint, load_joint_encoder as load_joint_encoder
from .vision import encode_images as encode_images
