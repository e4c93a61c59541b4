"""The codecs there are: by the name that settings say and by the number that frames say."""

from .codec import Codec
from .plane_huff import PlaneHuff
from .raw import Raw

CODECS: dict[str, Codec] = {
    "raw": Raw(),
    "plane-huff": PlaneHuff(),
}
CODECS_BY_NUMBER: dict[int, Codec] = {codec.number: codec for codec in CODECS.values()}
