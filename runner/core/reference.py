"""A picture that goes with a prompt: what is known of it, and what is sent for it. Plain values, picklable."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that goes with a prompt."""

    name: str
    """As written: a path relative to the manifest, or a URI."""
    mime: str
    """Such as `image/png`, read off its bytes; empty for a URI of unknown kind."""
    sha256: str
    """Of the file's bytes, in hex; empty for a URI."""
    bytes: int
    """Size of the file; 0 for a URI."""
    uri: str | None = None
    """Given as a URI: sent as it is."""

    @property
    def identity(self) -> str:
        """What a task's key holds of it: its content, or the URI."""
        return self.uri or self.sha256


@dataclass(frozen=True, slots=True)
class Part:
    """A reference as it is sent: inline or by the address of a file at the service (gemini-api.md §4.1)."""

    mime: str
    base64: bytes | None = None
    """Standard alphabet, padded."""
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that the service holds (gemini-api.md §9)."""

    name: str
    """`files/…`: by which it is asked for and deleted."""
    uri: str
    """By which a request names it."""
    mime: str
    expires_at_utc: float
    """Seconds since 1970."""
