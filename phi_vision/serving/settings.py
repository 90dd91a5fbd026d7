"""Settings: the address, key and limits of a server; all but `key` are options of `serve`."""

import re
from dataclasses import dataclass, field
from typing import Annotated, get_args, get_origin, get_type_hints

from PIL import Image

from phi_vision.io.formatting import error_texts

failure = error_texts(__file__)
MIB = 2**20
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0  # Pillow itself treats a larger image as an attack.


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Address and limits of a server; numbers are annotated with their minimum and maximum."""

    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for all networks."""
    port: Annotated[int, 0, 65_535] = 8000
    """Port to listen on; 0 picks a free one."""
    name: str | None = None
    """Model name in the API; the folder's name by default."""
    key: str | None = field(default=None, repr=False)
    """API key that requests must send as a bearer token; None disables authentication."""
    target_precision: float | None = None
    """Share of correct values promised among those accepted without review, such as 0.95; by
    default that of the run's evaluation, if it had one."""
    max_body_bytes: Annotated[int, 1024, 1024 * MIB] = 20 * MIB
    """Maximum size of a request body, and of an image fetched from a host, in bytes."""
    max_pixels: Annotated[int, 1, MAX_PIXELS] = 50_000_000
    """Maximum number of pixels of an image."""
    max_aspect: Annotated[float, 1, 1000] = 20.0
    """Maximum aspect ratio of an image (longer side / shorter side)."""
    max_images: Annotated[int, 1, 64] = 4
    """Maximum number of images per request."""
    max_held_bytes: Annotated[int, MIB, 2**50] = 2048 * MIB
    """Memory for the request bodies in flight, and as much again for their decoded images, in
    bytes; above it requests are rejected with 429."""
    max_tokens: Annotated[int, 1, 1_000_000] = 1024
    """Maximum number of generated tokens per request."""
    max_prompt_characters: Annotated[int, 1, 10_000_000] = 20_000
    """Maximum number of prompt characters per request, and of the tokens of its text."""
    queue: Annotated[int, 1, 100_000] = 64
    """Maximum number of queued requests; above it requests are rejected with 429."""
    timeout: Annotated[float, 0.001, 86_400] = 120.0
    """Timeout of a request in seconds, from queueing to the last token."""
    body_timeout: Annotated[float, 0.001, 86_400] = 30.0
    """Timeout for receiving a request body, in seconds."""
    fetch_timeout: Annotated[float, 0.001, 86_400] = 10.0
    """Timeout for fetching an image from a host, in seconds."""
    drain: Annotated[float, 0, 86_400] = 30.0
    """Seconds that running generations have to finish at shutdown."""
    batch_size: Annotated[int, 1, 4096] = 16
    """Maximum number of requests per batch."""
    batch_wait: Annotated[float, 0, 10] = 0.008
    """Seconds that a request waits for others to fill its batch."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from, such as shop.example or 10.0.0.5:8080; by default
    none, images must be sent inside the request."""
    allow_origins: tuple[str, ...] = ()
    """Origins of web pages that may send requests (CORS), such as https://shop.example; * for all;
    by default only the page of this server."""

    def __post_init__(self) -> None:
        """Validate all values; an error names the option, the value and the range."""
        for name, (minimum, maximum) in LIMITS.items():
            if not minimum <= (value := getattr(self, name)) <= maximum:
                found = {"value": value, "minimum": minimum, "maximum": maximum}
                raise failure("range", option=name.replace("_", "-"), **found)
        for host in self.allow_hosts:
            if not host or set(host) & set("/@?#* \t"):
                raise failure("host", found=host)
        for origin in self.allow_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise failure("origin", found=origin)
        key = self.key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise failure("key")


# Setting -> (minimum, maximum).
LIMITS: dict[str, tuple[float, float]] = {
    name: get_args(hint)[1:]
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    if get_origin(hint) is Annotated
}
