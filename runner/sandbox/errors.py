"""Error answers as the service words them, recorded or documented (gemini-api.md §7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STATUSES = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
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

    def body(self) -> dict[str, Any]:
        """The envelope; 408 has no status name of its own."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.code in STATUSES:
            error["status"] = STATUSES[self.code]
        if self.details:
            error["details"] = list(self.details)
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Quota:
    """A kind of limit: its window, and how the service names it."""

    window_s: float
    metric: str
    id: str


QUOTAS = {
    "rpm": Quota(60, f"{_METRIC}generate_requests_per_model", "GenerateRequestsPerMinutePerProjectPerModel"),
    "rpd": Quota(
        86400, f"{_METRIC}generate_requests_per_model_per_day", "GenerateRequestsPerDayPerProjectPerModel"
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


def quota_exceeded(quota: Quota, limit: int, model: str, retry_s: float) -> ApiError:
    """429 that names its quota; `retryDelay` is cut to whole seconds, the prose is not (§7.3)."""
    violation = {
        "quotaMetric": quota.metric,
        "quotaId": quota.id,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(limit),
    }
    exceeded = f"\n* Quota exceeded for metric: {quota.metric}, limit: {limit}, model: {model}"
    return _quota_error(exceeded, [violation], retry_s)


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


def _quota_error(exceeded: str, violations: list[dict[str, Any]], retry_s: float) -> ApiError:
    details: list[dict[str, Any]] = [
        _HELP,
        {"@type": f"{_TYPE}QuotaFailure", "violations": violations},
        {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{int(retry_s)}s"},
    ]
    return ApiError(429, f"{_EXCEEDED}{exceeded}\nPlease retry in {spoken(retry_s)}.", details)


def spoken(seconds: float) -> str:
    """A delay as the messages write it: `34.28667s`, `2h35m3.27s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:.9f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail
