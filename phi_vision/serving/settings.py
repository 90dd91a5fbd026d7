"""Settings: where one server listens and what it puts up with; its fields are options of `serve`.

Holds no reading of the command line; a value that cannot work is refused where it is set.
"""

from dataclasses import dataclass, field

from PIL import Image

MIB = 2**20
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Pillow itself takes a larger image for an attack."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a server listens, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 for all networks."""

    port: int = 8000
    """Port to listen on; 0 takes a free one."""

    name: str | None = None
    """Name of the model as callers see it; that of its folder unless given."""

    key: str | None = field(default=None, repr=False)
    """What callers must send as a bearer token; nothing is asked of them unless given."""

    max_body_bytes: int = 20 * MIB
    """Most bytes of one request; also of one image fetched from a host."""

    max_pixels: int = 50_000_000
    """Most pixels of one image."""

    max_aspect: float = 20.0
    """Longest side of an image, in shortest sides."""

    max_images: int = 4
    """Most images of one question."""

    max_held_bytes: int = 2048 * MIB
    """Most bytes held at once for all questions under way: bodies, and apart from them decoded
    images; beyond it callers are told to come again."""

    max_tokens: int = 1024
    """Most tokens of one answer."""

    max_prompt_characters: int = 20_000
    """Most characters of one question."""

    queue: int = 64
    """Most questions waiting; beyond it callers are told to come again."""

    timeout: float = 120.0
    """Seconds for one answer, waiting included."""

    body_timeout: float = 30.0
    """Seconds for a request to arrive."""

    fetch_timeout: float = 10.0
    """Seconds for an image to be fetched from a host."""

    drain: float = 30.0
    """Seconds for answers under way to end when the server is told to stop."""

    batch_size: int = 16
    """Most questions answered together."""

    batch_wait: float = 0.008
    """Seconds a question waits for others to be answered together with it."""

    allow_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from, such as shop.example or 10.0.0.5:8080; none unless
    given, so that images come inside requests."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: Names the setting, what was found and what it takes.
        """
        for name, least, most in LIMITS:
            value = getattr(self, name)
            if not least <= value <= most:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is {value:,}; give a number from {least} to {most:,}")
        for host in self.allow_hosts:
            if not host or set(host) & set("/@?#* \t"):
                raise ValueError(
                    f"--allow-hosts has {host!r}, which is no host; give a name such as "
                    "shop.example, with a port if it is not the usual one, and no path"
                )
        if self.key is not None and not _is_token(self.key):
            raise ValueError(
                "the key is empty or has blanks, control characters or letters beyond ASCII, which "
                "a header cannot carry; give one such as `openssl rand -hex 32` writes"
            )


def _is_token(key: str) -> bool:
    return key.isascii() and key.isprintable() and bool(key) and " " not in key


LIMITS: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65_535),
    ("max_body_bytes", 1024, 1024 * MIB),
    ("max_pixels", 1, MOST_PIXELS),
    ("max_aspect", 1, 1000),
    ("max_images", 1, 64),
    ("max_held_bytes", MIB, 2**50),
    ("max_tokens", 1, 1_000_000),
    ("max_prompt_characters", 1, 10_000_000),
    ("queue", 1, 100_000),
    ("timeout", 0.001, 86_400),
    ("body_timeout", 0.001, 86_400),
    ("fetch_timeout", 0.001, 86_400),
    ("drain", 0, 86_400),
    ("batch_size", 1, 4096),
    ("batch_wait", 0, 10),
)
"""Setting, and the least and most it takes."""
