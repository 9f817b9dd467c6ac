"""Error answers as the service words them, recorded or documented (gemini-api.md §7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

STATUSES = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

REPORT = "Please retry or report in https://developers.generativeai.google/guide/troubleshooting"

_TYPE = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/"
_EXCEEDED = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/rate-limit. "
)
_HELP = {
    "@type": f"{_TYPE}Help",
    "links": [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ],
}


@dataclass(eq=False)
class ApiError(Exception):
    """An error status with the service's envelope."""

    code: int
    message: str
    details: Sequence[dict[str, Any]] = ()
    refused_by: str | None = None
    """The quota that refused it, by its name in QUOTAS; not on the wire."""
    status: str | None = None
    """Where it is not the usual one of its code."""

    def body(self) -> dict[str, Any]:
        """The envelope; 408 has no status name of its own."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if status := self.status or STATUSES.get(self.code):
            error["status"] = status
        if self.details:
            error["details"] = list(self.details)
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Quota:
    """A kind of limit, as the service names it."""

    metric: str
    id: str
    per_model: bool = True
    """False: all models together."""
    in_dollars: bool = False
    """Its limit is kept in nano-dollars and said in dollars."""


# No recording and no report shows how images a minute or money are named: those ids are made up after the others.
QUOTAS = {
    "rpm": Quota(f"{_METRIC}generate_requests_per_model", "GenerateRequestsPerMinutePerProjectPerModel"),
    "tpm": Quota(
        f"{_METRIC}generate_content_paid_tier_input_token_count",
        "GenerateContentPaidTierInputTokensPerModelPerMinute",
    ),
    "ipm": Quota(f"{_METRIC}generate_images_per_model", "GenerateImagesPerMinutePerProjectPerModel"),
    "rpd": Quota(f"{_METRIC}generate_requests_per_model_per_day", "GenerateRequestsPerDayPerProjectPerModel"),
    "spend": Quota(
        f"{_METRIC}spend_per_project_per_10_minutes",
        "SpendPer10MinutesPerProject",
        per_model=False,
        in_dollars=True,
    ),
    "month": Quota(
        f"{_METRIC}spend_per_project_per_month", "SpendPerMonthPerProject", per_model=False, in_dollars=True
    ),
}


def invalid(message: str) -> ApiError:
    """400 for a request that is well-formed and cannot be served."""
    return ApiError(400, message)


def invalid_payload(problems: Sequence[tuple[str, str]]) -> ApiError:
    """400 for fields that are unknown or of the wrong kind: (path, description) of each."""
    violations = [
        {"field": path, "description": text} if path else {"description": text} for path, text in problems
    ]
    detail = {"@type": f"{_TYPE}BadRequest", "fieldViolations": violations}
    return ApiError(400, "\n".join(text for _, text in problems), [detail])


def no_key() -> ApiError:
    """403: the request carried no key."""
    return ApiError(
        403,
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
        "other form of API consumer identity to call this API.",
    )


def wrong_key() -> ApiError:
    """400, not 401: the key is not valid."""
    message = "API key not valid. Please pass a valid API key."
    details: list[dict[str, Any]] = [
        {
            "@type": f"{_TYPE}ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        },
        {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": message},
    ]
    return ApiError(400, message, details)


def unknown_model(model: str, version: str, method: str) -> ApiError:
    """404: no such model, or not one for this method."""
    return ApiError(
        404,
        f"models/{model} is not found for API version {version}, or is not supported for {method}. Call "
        "ModelService.ListModels to see the list of available models and their supported methods.",
    )


def retired_model(model: str) -> ApiError:
    """404: the model was switched off."""
    return ApiError(
        404,
        f"This model models/{model} is no longer available. Please update your code to use a newer model for the "
        "latest features and improvements.",
    )


def no_file(id_: str) -> ApiError:
    """403, not 404: the file is not there, or no longer, or somebody else's."""
    return ApiError(403, f"You do not have permission to access the File {id_} or it may not exist.")


def file_not_active(id_: str) -> ApiError:
    """400: the file is still processed, or failed to be."""
    text = f"The File {id_} is not in an ACTIVE state and usage is not allowed."
    return ApiError(400, text, status="FAILED_PRECONDITION")


def storage_full(limit: int) -> ApiError:
    """429 without a delay: the files of the project hold all they may (§9.2). Only the metric's name is known."""
    metric = f"{_METRIC}file_storage_bytes"
    violation = {"quotaMetric": metric, "quotaId": "FileStorageBytesPerProject", "quotaValue": str(limit)}
    details = [_HELP, {"@type": f"{_TYPE}QuotaFailure", "violations": [violation]}]
    return ApiError(429, f"{_EXCEEDED}\n* Quota exceeded for metric: {metric}, limit: {limit}", details)


def no_batch() -> ApiError:
    """404: no such job, or no longer."""
    return ApiError(404, "Requested entity was not found.")


def batch_done() -> ApiError:
    """400: the job cannot be cancelled any more; what the service says is not known (§8.11)."""
    return ApiError(400, "The batch has already reached a terminal state.", status="FAILED_PRECONDITION")


def batch_exhausted(refused_by: str | None = None) -> ApiError:
    """429 for a create, which says nothing but where to read on (§7.3)."""
    return ApiError(429, "Resource has been exhausted (e.g. check quota).", [_HELP], refused_by=refused_by)


def generated_file() -> ApiError:
    """400 for whatever but a download of results: their ids are longer than an id may be (§8.7)."""
    return invalid("* file.name: The file ID may have up to 40 characters.\n")


def exhausted(refused_by: str | None = None) -> ApiError:
    """429 that names nothing (recorded)."""
    return ApiError(429, "Resource has been exhausted (e.g. check quota).", refused_by=refused_by)


def quota_exceeded(name: str, limit: int, model: str, retry_s: float, *, value: bool = True) -> ApiError:
    """429 that names its quota; without `value` neither details nor prose say how large it is.

    `retryDelay` is cut to whole seconds, the prose is not (§7.3).
    """
    quota = QUOTAS[name]
    said = f"{Decimal(limit).scaleb(-9).normalize():f}" if quota.in_dollars else str(limit)
    violation: dict[str, Any] = {
        "quotaMetric": quota.metric,
        "quotaId": quota.id,
        "quotaDimensions": {"location": "global"} | ({"model": model} if quota.per_model else {}),
    }
    exceeded = f"\n* Quota exceeded for metric: {quota.metric}"
    exceeded += f", limit: {said}" if value else ""
    exceeded += f", model: {model}" if quota.per_model else ""
    return _quota_error(exceeded, [violation | ({"quotaValue": said} if value else {})], retry_s, name)


def no_quota(model: str) -> ApiError:
    """429 with `limit: 0`: the project has no quota for this model at all, whatever the delay says."""
    requests, tokens = (
        f"{_METRIC}generate_content_free_tier_{kind}" for kind in ("requests", "input_token_count")
    )
    named = [
        (requests, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        (requests, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
        (tokens, "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
    ]
    dimensions = {"location": "global", "model": model}
    violations = [{"quotaMetric": metric, "quotaId": id_, "quotaDimensions": dimensions} for metric, id_ in named]
    exceeded = "".join(f"\n* Quota exceeded for metric: {metric}, limit: 0, model: {model}" for metric, _ in named)
    return _quota_error(exceeded, violations, 16.34553186)


def _quota_error(
    exceeded: str, violations: list[dict[str, Any]], retry_s: float, refused_by: str | None = None
) -> ApiError:
    details: list[dict[str, Any]] = [
        _HELP,
        {"@type": f"{_TYPE}QuotaFailure", "violations": violations},
        {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{int(retry_s)}s"},
    ]
    return ApiError(429, f"{_EXCEEDED}{exceeded}\nPlease retry in {spoken(retry_s)}.", details, refused_by)


def spoken(seconds: float) -> str:
    """A delay as the messages write it: `34.28667s`, `2h35m3.27s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:.9f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail
