from .behaviour import behaviour_view as behaviour_view
from .image import describe_images as describe_images, encode_images as encode_images
from .joint import encode_joint as encode_joint, load_joint_encoder as load_joint_encoder
from .queries import query_encoder as query_encoder, text_encoder as text_encoder
from .text import (
    encode_queries as encode_queries,
    encode_texts as encode_texts,
    item_text as item_text,
    load_encoder as load_encoder,
)
from .views import (
    components as components,
    late_fusion as late_fusion,
    load_fused as load_fused,
    load_views as load_views,
    save_views as save_views,
    unit_rows as unit_rows,
)
