"""One generation before it becomes an answer: its draws, its token counts and its pictures."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import pybase64

from runner.sandbox.chance import Chance
from runner.sandbox.options import Options
from runner.sandbox.picture import Drawing, broken_inside, broken_off, encode
from runner.sandbox.request import Asked, thinks

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a generation costs, in tokens as they are priced: text includes thinking."""

    input: int
    text: int
    image: int
    images: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of an answer; `image` is itemised unless `itemised` is False."""

    prompt_text: int
    prompt_image: int = 0
    candidates: int = 0
    thoughts: int = 0
    image: int = 0
    itemised: bool = True
    tier: str = "standard"
    doubled: bool = False
    """The refusal that reports its thinking as candidates too: total and charge count it once (§5.4)."""

    @property
    def prompt(self) -> int:
        """The whole input."""
        return self.prompt_text + self.prompt_image

    @property
    def text(self) -> int:
        """Output priced as text."""
        return self.thoughts if self.doubled else self.candidates - self.image + self.thoughts

    def wire(self) -> Json:
        """`usageMetadata` in the order and with the omissions of recorded answers."""
        numbers = {
            "promptTokenCount": self.prompt,
            "candidatesTokenCount": self.candidates,
            "totalTokenCount": self.prompt + self.image + self.text,
            "thoughtsTokenCount": self.thoughts,
            "promptTokensDetails": _details(TEXT=self.prompt_text, IMAGE=self.prompt_image),
            "candidatesTokensDetails": _details(IMAGE=self.image) if self.itemised else None,
        }
        return {**{name: value for name, value in numbers.items() if value}, "serviceTier": self.tier}

    def charge(self, images: int) -> Charge:
        """The bill of an answer with so many pictures."""
        return Charge(self.prompt, self.text, self.image, images)


def _details(**modalities: int) -> list[Json]:
    return [{"modality": name, "tokenCount": count} for name, count in modalities.items() if count]


@dataclass(frozen=True, slots=True)
class Image:
    """A generated picture as it will be sent."""

    data: bytes
    mime: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One admitted request with its chance."""

    asked: Asked
    chance: Chance
    options: Options
    overrun: bool = False
    details_missing: bool = False
    tier: str = "standard"
    """Which tier serves it."""

    def prompt_usage(self) -> Usage:
        """The input alone."""
        return Usage(self.asked.text_tokens, self.asked.reference_tokens, tier=self.tier)

    def thoughts(self) -> int:
        """Thinking tokens: none without thinking, mostly none at minimal, 300 to 800 at high (§5.4)."""
        match self.asked.thinking:
            case None:
                return 0
            case "minimal":
                return self.chance.whole("thoughts", 1, 800) if self.chance.happens("thinks", 0.15) else 0
            case "high":
                return self.chance.whole("thoughts", 300, 800)
            case _:
                return self.chance.whole("thoughts", 100, 800)

    def usage(self, pictures: int) -> Usage:
        """Token counts of an answer with so many pictures."""
        image = pictures * self.asked.image_tokens
        thoughts = self.thoughts()
        beside = 0 if self.chance.happens("bare", 0.2) else self.chance.whole("beside", 20, 630)
        if self.overrun:
            # Beyond the 1,500 tokens (minimal) or 4,000 (more) that a careful caller sets aside.
            minimal = self.asked.thinking in {None, "minimal"}
            total = self.chance.whole("overrun", *((1600, 2500) if minimal else (4100, 5000)))
            thoughts = 0 if self.asked.thinking is None else total - beside
            beside = total - thoughts
        itemised = not self.details_missing
        return replace(
            self.prompt_usage(), candidates=image + beside, thoughts=thoughts, image=image, itemised=itemised
        )

    def image(self, fault: str | None, draft: int = 0) -> Image:
        """Draw a picture, spoiled as `fault` says; `draft` counts those of one answer."""
        form: Literal["jpeg", "png"] = "png" if fault == "wrong_mime" else self.options.image
        data = encode(self._drawing(fault, draft, ""), form)
        if fault == "unpadded_base64" and len(data) % 3 == 0:
            data = encode(self._drawing(fault, draft, "."), form)
        if fault == "corrupt_image":
            data = self.chance.pick("damage", (broken_inside, broken_off))(data)
        return Image(data, "image/jpeg" if fault == "wrong_mime" else f"image/{form}")

    def _drawing(self, fault: str | None, draft: int, filler: str) -> Drawing:
        asked, seen = self.asked, self.chance.seen
        width, height = self._wrong_pixels() if fault == "wrong_pixels" else asked.pixels
        mark = f"#{asked.hash[:8]} sample {seen}" + (f" draft {draft}" if draft else "")
        facts = f"{mark} | {asked.size} {asked.aspect} {width}x{height} | {asked.model.id}"
        return Drawing(width, height, f"{facts} | {asked.prompt}", int(asked.hash[:4], 16) / 65536, mark + filler)

    def _wrong_pixels(self) -> tuple[int, int]:
        """Another shape or a smaller size than was asked: what a router that ignores the fields returns."""
        width, height = self.asked.pixels
        if width == height or self.chance.happens("smaller", 0.5):
            return width // 2, height // 2
        return (1024, 1024) if (width, height) != (1024, 1024) else (512, 512)

    def signed(self, part: Json) -> Json:
        """The part with a `thoughtSignature`, where the model gives one."""
        if not thinks(self.asked.model):
            return part
        block = self.chance.digest("signature", 64)
        size = self.options.signature_bytes
        return {**part, "thoughtSignature": encoded((block * (size // 64 + 1))[:size], None)}

    def response_id(self) -> str:
        """Unique for each sample."""
        return encoded(self.chance.digest("response", 17), "urlsafe_base64").rstrip("=")


def encoded(data: bytes, fault: str | None) -> str:
    """Base64, in the other alphabet or without its padding where the fault says so (§4.4)."""
    text = pybase64.b64encode_as_string(data)
    if fault == "urlsafe_base64":
        return text.replace("+", "-").replace("/", "_")
    return text.rstrip("=") if fault == "unpadded_base64" else text
