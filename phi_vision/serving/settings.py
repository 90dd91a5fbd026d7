"""Settings: the address, key and limits of a server; all but `key` are options of `serve`.

Knows nothing of the command line; a value out of range is rejected where it is set.
"""

from dataclasses import dataclass, field

from PIL import Image

MIB = 2**20
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Pillow itself treats a larger image as an attack."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Address and limits of a server."""

    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for all networks."""

    port: int = 8000
    """Port to listen on; 0 picks a free one."""

    name: str | None = None
    """Model name in the API; the folder's name by default."""

    key: str | None = field(default=None, repr=False)
    """API key that requests must send as a bearer token; None disables authentication."""

    max_body_bytes: int = 20 * MIB
    """Maximum size of a request body, and of an image fetched from a host, in bytes."""

    max_pixels: int = 50_000_000
    """Maximum number of pixels of an image."""

    max_aspect: float = 20.0
    """Maximum aspect ratio of an image (longer side / shorter side)."""

    max_images: int = 4
    """Maximum number of images per request."""

    max_held_bytes: int = 2048 * MIB
    """Memory for the request bodies in flight, and as much again for their decoded images, in
    bytes; above it requests are rejected with 429."""

    max_tokens: int = 1024
    """Maximum number of generated tokens per request."""

    max_prompt_characters: int = 20_000
    """Maximum number of prompt characters per request."""

    queue: int = 64
    """Maximum number of queued requests; above it requests are rejected with 429."""

    timeout: float = 120.0
    """Timeout of a request in seconds, from queueing to the last token."""

    body_timeout: float = 30.0
    """Timeout for receiving a request body, in seconds."""

    fetch_timeout: float = 10.0
    """Timeout for fetching an image from a host, in seconds."""

    drain: float = 30.0
    """Seconds that running generations have to finish at shutdown."""

    batch_size: int = 16
    """Maximum number of requests per batch."""

    batch_wait: float = 0.008
    """Seconds that a request waits for others to fill its batch."""

    allow_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from, such as shop.example or 10.0.0.5:8080; by default
    none, images must be sent inside the request."""

    def __post_init__(self) -> None:
        """Validate all values.

        Raises:
            ValueError: A value is out of range; names the option, the value and the range.
        """
        for name, (minimum, maximum) in LIMITS.items():
            value = getattr(self, name)
            if not minimum <= value <= maximum:
                raise ValueError(
                    f"--{name.replace('_', '-')} is {value:,}; set a number from {minimum} to "
                    f"{maximum:,}"
                )
        for host in self.allow_hosts:
            if not host or set(host) & set("/@?#* \t"):
                raise ValueError(
                    f"--allow-hosts has {host!r}, which is not a host; write a name such as "
                    "shop.example, with a port unless it is 80 or 443, and without a path"
                )
        key = self.key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                "the key is empty or has spaces, control characters or non-ASCII letters, which an "
                "HTTP header cannot carry; create one with `openssl rand -hex 32`"
            )


LIMITS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "max_body_bytes": (1024, 1024 * MIB),
    "max_pixels": (1, MAX_PIXELS),
    "max_aspect": (1, 1000),
    "max_images": (1, 64),
    "max_held_bytes": (MIB, 2**50),
    "max_tokens": (1, 1_000_000),
    "max_prompt_characters": (1, 10_000_000),
    "queue": (1, 100_000),
    "timeout": (0.001, 86_400),
    "body_timeout": (0.001, 86_400),
    "fetch_timeout": (0.001, 86_400),
    "drain": (0, 86_400),
    "batch_size": (1, 4096),
    "batch_wait": (0, 10),
}
"""Setting -> (minimum, maximum)."""
