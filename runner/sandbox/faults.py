"""The fault table: which misbehaviour a request meets, and how likely each is.

What a fault looks like on the wire is in `answer` (bodies), `errors` (statuses), `delivery` (connections),
`files` and `upload` (those of the Files API), `job`, `line` and `batches` (those of the Batch API).
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.sandbox.chance import Chance

STOPPING = ("daily_quota", "no_quota", "credits", "retired_404")
"""Faults after which no careful client goes on: never in a preset, only by name."""

TIERS = {"served_flex": "flex", "served_priority": "priority"}
"""Plain answers that another tier served than was asked for, at another price (gemini-api.md §10): by name."""

FAULTS = (
    *("minute_quota", "bare_429", *STOPPING),
    *("http_500", "http_502_html", "empty_502", "http_503", "http_503_demand", "error_list"),
    *("http_504", "http_408", "http_499", "html_200", "error_in_200"),
    *("hang", "reset_before", "close_after_read", "reset_mid", "cut", "trickle", "keepalive_whitespace"),
    *("image_safety", "image_other", "no_image", "image_prohibited", "image_recitation", "prompt_blocked"),
    *("words_only", "empty_stop", "parts_null", "max_tokens", "unknown_finish"),
    *("refusal_total_shape", "no_usage_refusal"),
    *("several_images", "thought_drafts", "text_first", "urlsafe_base64", "unpadded_base64"),
    *(
        "wrong_pixels",
        "corrupt_image",
        "wrong_mime",
        "extra_fields",
        "snake_case",
        "other_version",
        "usage_missing",
    ),
    *TIERS,
)
"""Every fault that takes the place of a plain answer; a request meets at most one (gemini-api.md §12)."""

FILE_FAULTS: Mapping[str, tuple[str, ...]] = {
    "start": ("upload_start_lost", "upload_503", "upload_mime", "upload_jsonl", "storage_full"),
    "chunk": ("upload_503", "upload_broken", "upload_no_status"),
    "file": ("file_failed", "file_processing"),
    "use": ("file_gone",),
}
"""Faults of the Files API by where they are drawn, at most one at each; in no preset (gemini-api.md §9, §12).

`upload_start_lost`: the upload begins, its reply is lost. `upload_mime`, `upload_jsonl`: 400 for any MIME type, or
for that of JSON lines. `storage_full`: 429. `upload_broken`: a reset within a chunk, its first bytes are kept.
`upload_no_status`: no X-Goog-Upload-Status, the chunk is kept or is not. `file_processing`: not ACTIVE before 5 to
30 s of the clock have passed. `file_gone`: 403 when it is used, and from then on.
"""

ITEM_FAULTS: Mapping[str, int] = {
    "batch_code_13": 13,
    "batch_code_8": 8,
    "batch_code_14": 14,
    "batch_code_4": 4,
    "batch_code_3": 3,
}
"""Errors of one line of a batch with their gRPC codes; drawn behind FAULTS, which lines meet as well."""

BATCH_FAULTS: Mapping[str, tuple[str, ...]] = {
    "create": ("batch_create_lost", "batch_create_429", "batch_create_503"),
    "run": ("batch_stuck", "batch_failed", "batch_expired", "batch_unknown_state", "batch_partly"),
    "lines": ("batch_lines_dropped", "batch_lines_shuffled", "batch_lines_repeated"),
    "form": ("batch_key_in_metadata", "batch_status_lines"),
    "seen": ("batch_list_omits",),
    "inline": ("batch_inline_too_large",),
    "cancel": ("batch_cancel_slow",),
    "list": ("batch_list_repeats", "batch_list_503"),
    "get": ("batch_get_503",),
    "download": ("batch_download_cut", "batch_download_503"),
}
"""Faults of the Batch API by where they are drawn, at most one at each; in no preset (gemini-api.md §8, §12).

`batch_create_lost`: the job is there, its reply is a closed connection, a reset, a 503 or a 504; after `_429` and
`_503` it is not. `batch_stuck`: PENDING until it expires; `batch_expired`: RUNNING until then, a part of its lines
done and billed. `batch_failed`: FAILED as a whole, nothing billed. `batch_unknown_state` stands in for RUNNING,
`batch_partly`, PARTIALLY_SUCCEEDED, for SUCCEEDED. Dropped lines are billed, repeated ones once.
`batch_status_lines`: `status` in place of `error`. `batch_list_omits`: the list shows the job only after 1 to 10
minutes of the clock; `_repeats`: its page begins with the newest job once more. `batch_inline_too_large`: results
inline are never to be had, 503 or 504. `batch_cancel_slow`: it takes effect after 10 to 30 minutes of the clock,
else after 2 to 30 seconds. `batch_download_cut`: the connection ends within the results.
"""

_GROUPS = ((*FAULTS, *ITEM_FAULTS), *FILE_FAULTS.values(), *BATCH_FAULTS.values())
_NAMES = tuple(dict.fromkeys(name for names in _GROUPS for name in names))

HABITS = {"details_missing": 0.05, "overrun": 0.002}
"""What ordinary answers do now and then, whatever the plan; a plan may set their rates, to 0 as well.

`details_missing`: no candidatesTokensDetails. `overrun`: more text and thinking tokens than callers reserve.
"""

_THROTTLES = ("minute_quota", "bare_429", "http_503", "http_503_demand")
_MILD = (
    *_THROTTLES,
    "http_500",
    "http_502_html",
    "image_safety",
    "no_image",
    "words_only",
    "cut",
    "several_images",
)
_STORM = tuple(name for name in FAULTS if name not in (*STOPPING, *TIERS, "hang"))

PRESETS: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "night": dict.fromkeys(_MILD, 0.03 / len(_MILD)),
    "mild": dict.fromkeys(_MILD, 0.01),
    "storm": dict.fromkeys(_STORM, 0.009) | dict.fromkeys(_THROTTLES, 0.005),
}
"""`none`; `night`: 3 % of faults; `mild`: 11 %; `storm`: 38 %, all others but `hang`; none of files or batches."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Probability of each fault by name; ValueError for an unknown name or numbers that are no probabilities."""

    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for name, rate in self.rates.items():
            _check(name, rate)
        for names in _GROUPS:
            if (total := sum(self.rates.get(name, 0.0) for name in names)) > 1 + 1e-9:
                raise ValueError(f"the probabilities of the faults add up to {total:g}; at most 1 is possible")

    def draw(self, chance: Chance, names: Sequence[str] = FAULTS) -> str | None:
        """The fault among `names` that this sample meets; None for a plain answer."""
        left = chance.unit("fault")
        for name in names:
            left -= self.rates.get(name, 0.0)
            if left < 0:
                return name
        return None

    def habit(self, name: str, chance: Chance) -> bool:
        """Whether this sample has the habit `name` of HABITS."""
        return chance.happens(name, self.rates.get(name, HABITS[name]))


def _check(name: str, rate: object) -> None:
    if name not in _NAMES and name not in HABITS:
        near = difflib.get_close_matches(name, (*_NAMES, *HABITS, *PRESETS), 1)
        raise ValueError(f"unknown fault {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ValueError(f"fault {name}: {rate!r} is not a probability from 0 to 1")


def fault_plan(text: str) -> FaultPlan:
    """Read a plan: a preset, `name=probability` with commas, both together, or a .yaml, .yml or .toml file.

    `storm,hang=0.01` is the storm with hanging added; a file is a table of name to probability whose key `preset`
    may name the plan it starts from. Raises ValueError, saying what is wrong; OSError for an unreadable file.
    """
    if Path(text).suffix in {".yaml", ".yml", ".toml"}:
        return _from_table(Path(text))
    rates: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = item.partition("=")
        rates |= {name.strip(): _number(item, number)} if equals else _preset(item)
    return FaultPlan(rates)


def _preset(name: object) -> Mapping[str, float]:
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(
            f"unknown fault plan {name!r}: expected one of {', '.join(PRESETS)}, name=probability pairs, "
            "or a .yaml or .toml file"
        )
    return PRESETS[name]


def _number(item: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"{item!r}: expected name=probability") from None


def _from_table(path: Path) -> FaultPlan:
    table = _read(path)
    if not isinstance(table, dict):
        raise ValueError(f"{path}: expected a table of fault names to probabilities")  # noqa: TRY004
    base = _preset(table.pop("preset", "none"))
    return FaultPlan({**base, **table})


def _read(path: Path) -> object:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text)
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
