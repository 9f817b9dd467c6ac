"""Refusals as the service and routers word them, recorded or documented, and how each has to be read."""

from dataclasses import dataclass, field
from typing import Any

from runner.core.lifecycle import Named

METRIC = "generativelanguage.googleapis.com/"
EXCEEDED = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head to: "
    "https://ai.dev/rate-limit. "
)


def error(message: str = "said", *details: Any, **more: Any) -> dict[str, Any]:
    status = more.pop("status", "RESOURCE_EXHAUSTED")
    return {"error": {"message": message, "status": status, "details": list(details), **more}}


def quota(*violations: dict[str, Any]) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": list(violations)}


def limit(quota_id: str, value: Any = None, metric: str = "") -> dict[str, Any]:
    entry = {"quotaId": quota_id, "quotaValue": value, "quotaMetric": metric and METRIC + metric}
    return {name: said for name, said in entry.items() if said not in {None, ""}}


def wait(delay: Any) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


RPM = "GenerateRequestsPerMinutePerProjectPerModel"
RPD = "GenerateRequestsPerDayPerProjectPerModel"
TPM = "GenerateContentPaidTierInputTokensPerModelPerMinute"
FREE_TPM = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
IPM = "GenerateImagesPerMinutePerProjectPerModel"  # never recorded: plausible (§13.15)
TPM_METRIC = "generate_content_paid_tier_input_token_count"
SPEND = "SpendPerTenMinutesPerProject"  # never recorded


@dataclass(frozen=True)
class Case:
    """A refusal and how it has to be read."""

    name: str
    body: Any
    cls: str
    named: tuple[Named, ...] = ()
    wait_s: float | None = None
    status: int = 429
    headers: dict[str, str] = field(default_factory=dict)


CASES = [
    # a limit of the minute: §7.3
    Case(
        "requests",
        error("x", quota(limit(RPM, "500")), wait("34s")),
        "Throttled minute",
        (Named("requests", 500),),
        34,
    ),
    Case(
        "requests, with prose",
        error(
            f"{EXCEEDED}\n* Quota exceeded for metric: {METRIC}generate_requests_per_model, limit: 20, model: m\n"
            "Please retry in 33.8s.",
            quota(limit(RPM, "20", "generate_requests_per_model")),
            wait("33s"),
        ),
        "Throttled minute",
        (Named("requests", 20),),
        33.8,
    ),
    Case("value as a number", error("x", quota(limit(RPM, 60))), "Throttled minute", (Named("requests", 60),)),
    Case("value is garbage", error("x", quota(limit(RPM, "lots"))), "Throttled minute", (Named("requests"),)),
    Case("value left out", error("x", quota(limit(RPM))), "Throttled minute", (Named("requests"),)),
    Case(
        "value in the prose only",
        error(
            f"* Quota exceeded for metric: {METRIC}generate_requests_per_model, limit: 60, model: m",
            quota(limit(RPM, None, "generate_requests_per_model")),
        ),
        "Throttled minute",
        (Named("requests", 60),),
    ),
    Case(
        "tokens",
        error("x", quota(limit(TPM, "1000000", TPM_METRIC))),
        "Throttled minute",
        (Named("tokens", 1_000_000),),
    ),
    Case(
        "tokens, free tier",
        error("x", quota(limit(FREE_TPM, "250000"))),
        "Throttled minute",
        (Named("tokens", 250_000),),
    ),
    Case(
        "tokens by metric",
        error("x", quota(limit("X", "9", TPM_METRIC))),
        "Throttled minute",
        (Named("tokens", 9),),
    ),
    Case("images", error("x", quota(limit(IPM, "10"))), "Throttled minute", (Named("images", 10),)),
    Case(
        "images by metric",
        error("x", quota(limit("", "10", "generate_images_per_model"))),
        "Throttled minute",
        (Named("images", 10),),
    ),
    Case(
        "several of the minute",
        error("x", quota(limit(TPM, "5000"), limit(RPM, "60"), limit("RequestsPerMinutePerProject", "50"))),
        "Throttled minute",
        (Named("tokens", 5000), Named("requests", 50)),
    ),
    Case(
        "message only",
        error(
            f"{EXCEEDED}* Quota exceeded for metric: {METRIC}generate_requests_per_model, limit: 500, "
            "model: gemini-2.5-flash-preview-image\nPlease retry in 34.286670503s."
        ),
        "Throttled minute",
        (Named("requests", 500),),
        34.286670503,
    ),
    Case(
        "message only, two metrics",
        error(
            f"* Quota exceeded for metric: {METRIC}generate_requests_per_model, limit: 1,500, model: m\n"
            f"* Quota exceeded for metric: {METRIC}{TPM_METRIC}, limit: 4000000, model: m"
        ),
        "Throttled minute",
        (Named("requests", 1500), Named("tokens", 4_000_000)),
    ),
    Case(
        "an ErrorInfo instead of a QuotaFailure",
        error(
            "Quota exceeded for quota metric 'Generate Content API requests per minute' and limit "
            "'GenerateContent request limit per minute for a region'.",
            {
                "reason": "RATE_LIMIT_EXCEEDED",
                "metadata": {
                    "quota_limit": "GenerateContentRequestsPerMinutePerProjectPerRegion",
                    "quota_limit_value": "60",
                    "quota_metric": f"{METRIC}generate_content_requests",
                },
            },
        ),
        "Throttled minute",
        (Named("requests", 60),),
    ),
    Case(
        "a router's words",
        {
            "error": {
                "message": "Rate limit reached on images per min (IPM): Limit 5. Please try again in 12s.",
                "code": "rate_limit_exceeded",
            }
        },
        "Throttled minute",
        (Named("images", 5),),
        12,
    ),
    Case(
        "a router's words, the model's name says image",
        error("Rate limit reached for gpt-image-1 on tokens per min (TPM): Limit 10,000, Used 9600"),
        "Throttled minute",
        (Named("tokens", 10_000),),
    ),
    Case("no kind", error("x", quota(limit("XPerMinute", "5"))), "Throttled minute", (Named("requests"),)),
    Case(
        "output tokens",
        error("x", quota(limit("OutputTokensPerMinute", "5"))),
        "Throttled minute",
        (Named("requests"),),
    ),
    Case(
        "an hour's wait for a minute",
        error("requests per minute, retry in 1h2m"),
        "Throttled minute",
        (Named("requests"),),
        3720,
    ),
    # the rolling ten minutes of money: §7.5
    Case(
        "spend rate, prose",
        error(
            "You exceeded your spend-based rate limit. Your spending rate has exceeded the allowed limit for your "
            "account's billing history and tier.",
            quota(),
            wait("31s"),
        ),
        "Throttled spend_window",
        (Named("spend_window"),),
        31,
    ),
    Case(
        "spend id",
        error("x", quota(limit(SPEND, "10")), wait("120s")),
        "Throttled spend_window",
        (Named("spend_window"),),
        120,
    ),
    Case(
        "spend metric",
        error("x", quota(limit("UsdPer10MinutesPerProject", "10", "paid_tier_spend"))),
        "Throttled spend_window",
        (Named("spend_window"),),
    ),
    Case(
        "cost, rolling",
        error("The cost of a rolling window exceeds your tier"),
        "Throttled spend_window",
        (Named("spend_window"),),
    ),
    Case("dollars", error("Over $10 per 10 minutes."), "Throttled spend_window", (Named("spend_window"),)),
    Case("billing rate", error("Billing rate limit reached"), "Throttled spend_window", (Named("spend_window"),)),
    Case(
        "spend limit that passes soon",
        error("Spending limit reached. Please retry in 45s."),
        "Throttled spend_window",
        (Named("spend_window"),),
        45,
    ),
    Case(
        "spend window and requests",
        error("x", quota(limit(RPM, "60"), limit(SPEND, "10"))),
        "Throttled spend_window",
        (Named("requests", 60), Named("spend_window")),
    ),
    Case(
        "a tier's requests are no money",
        error("You exceeded the requests per minute of your billing tier"),
        "Throttled minute",
        (Named("requests"),),
    ),
    Case("half a request", error("quota, limit: 0.5, model: x"), "Throttled unnamed"),
    Case("no waits at all", error("x", wait(None), wait("soon"), wait([])), "Throttled unnamed"),
    # the day: §7.3
    Case("day", error("x", quota(limit(RPD, "250")), wait("6776s")), "Parked day", (Named("day", 250),), 6776),
    Case(
        "day, short wait",
        error("x", quota(limit(RPD, "250")), wait("16s")),
        "Parked day",
        (Named("day", 250),),
        16,
    ),
    Case(
        "day and minute",
        error("x", quota(limit(RPM, "10"), limit(RPD, "250"))),
        "Parked day",
        (Named("requests", 10), Named("day", 250)),
    ),
    Case(
        "tokens a day",
        error("x", quota(limit("InputTokensPerModelPerDay", "9000"))),
        "Parked day",
        (Named("day"),),
    ),
    Case(
        "day by metric",
        error(f"* Quota exceeded for metric: {METRIC}generate_requests_per_model_per_day, limit: 100, model: m"),
        "Parked day",
        (Named("day", 100),),
    ),
    Case(
        "day by the wait alone",
        error(
            f"* Quota exceeded for metric: {METRIC}generate_content_free_tier_requests, limit: 20, model: m\n"
            "Please retry in 1h52m56.4s."
        ),
        "Parked day",
        (Named("day", 20),),
        6776.4,
    ),
    Case(
        "day, bare with a long wait", error("Please retry in 2h35m3.27s."), "Parked day", (Named("day"),), 9303.27
    ),
    Case(
        "day, Retry-After",
        error("Resource exhausted. Please try again later."),
        "Parked day",
        (Named("day"),),
        7200,
        headers={"retry_after": "7200"},
    ),
    Case("day, absurd wait", error("x", wait("9" * 40 + "s")), "Parked day", (Named("day"),), 31 * 24 * 3600.0),
    Case("day, free tier", error("x", quota(limit(f"{RPD}-FreeTier", "100"))), "Parked day", (Named("day", 100),)),
    Case("day, prose", error("Daily Limit Exceeded"), "Parked day", (Named("day"),)),
    Case(
        "day, a router's prose",
        error("on requests per day (RPD): Limit 200, Used 200"),
        "Parked day",
        (Named("day", 200),),
    ),
    Case(
        "a router's daily limit",
        error("Key limit exceeded (daily limit).", status=""),
        "Parked day",
        (Named("day"),),
        status=403,
    ),
    # the month: §7.5
    Case(
        "month, project",
        error(
            "Your project has exceeded its monthly spending cap. Please go to AI Studio at "
            "https://ai.studio/spend to manage your project spend cap."
        ),
        "Parked month",
        (Named("month"),),
    ),
    Case(
        "month, account",
        error("Your billing account has exceeded its monthly spending cap"),
        "Parked month",
        (Named("month"),),
    ),
    Case("spend cap", error("The spend cap of your project is reached."), "Parked month", (Named("month"),)),
    Case(
        "spending limit", error("Spending limit of the billing period exceeded"), "Parked month", (Named("month"),)
    ),
    Case(
        "per month",
        error("x", quota(limit("SpendPerMonthPerBillingAccount", "250"))),
        "Parked month",
        (Named("month"),),
    ),
    Case(
        "month, day and minute",
        error("Monthly quota exceeded", quota(limit(RPM, "10"), limit(RPD, "250"))),
        "Parked month",
        (Named("requests", 10), Named("day", 250), Named("month")),
    ),
    Case(
        "a router's monthly limit",
        error("Monthly spend limit reached", status=""),
        "Parked month",
        (Named("month"),),
        status=402,
    ),
    # no quota, no money
    Case(
        "limit: 0",
        error(f"{EXCEEDED}\n* Quota exceeded for metric: x, limit: 0, model: m\nPlease retry in 16.3s."),
        "Stopped no_quota",
    ),
    Case("free tier of zero", error("x", quota(limit(f"{RPD}-FreeTier"), limit(FREE_TPM))), "Stopped no_quota"),
    Case("value of zero", error("x", quota(limit(RPM, "0"), limit(RPD, "5"))), "Stopped no_quota"),
    Case("limit: 0 and no credits", error("limit: 0. Your credits are exhausted."), "Stopped no_quota"),
    Case(
        "prepayment",
        error(
            "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage "
            "your project and billing."
        ),
        "Stopped credits",
    ),
    Case("credits and the day", error("Your credits are used up.", quota(limit(RPD, "5"))), "Stopped credits"),
    Case("credits of a month", error("Monthly credits exhausted"), "Stopped credits"),
    Case("a router's code", error("no", code="insufficient_quota"), "Stopped credits"),
    Case("402", b"", "Stopped credits", status=402),
    Case("402, HTML", b"<h1>Payment required</h1>", "Stopped credits", status=402),
    Case("403, credits", error("Insufficient credits", status=""), "Stopped credits", status=403),
    Case("400, billing", error("Enable billing", status="FAILED_PRECONDITION"), "Stopped billing", status=400),
    # capacity
    Case(
        "503",
        error("The service is currently unavailable.", status="UNAVAILABLE"),
        "Throttled capacity",
        status=503,
    ),
    Case("503, empty", b"", "Throttled capacity", status=503),
    Case("503, wait", error("high demand", wait("20s")), "Throttled capacity", (), 20, status=503),
    Case("503 is no quota", error("x", quota(limit(RPM, "9"))), "Throttled capacity", status=503),
    Case(
        "429, later",
        error("Resource exhausted. Please try again later. See https://x/rate-limits."),
        "Throttled capacity",
    ),
    Case("429, overloaded", error("The model is overloaded. Please try again later."), "Throttled capacity"),
    Case("429, high demand", error("This model is experiencing high demand."), "Throttled capacity"),
    Case("429, reason", error("x", {"reason": "MODEL_CAPACITY_EXHAUSTED"}), "Throttled capacity"),
    Case("429, overloaded for hours", error("Overloaded", wait("7200s")), "Throttled capacity", (), 7200),
    # nothing named
    Case("terse", error("Resource has been exhausted (e.g. check quota)."), "Throttled unnamed"),
    Case("only the boilerplate", error(EXCEEDED), "Throttled unnamed"),
    Case("empty", b"", "Throttled unnamed"),
    Case("HTML", b"<h1>429 Too Many Requests</h1>", "Throttled unnamed", (), 50, headers={"retry_after": "50"}),
    Case("a rate and later", error("Rate limit exceeded, try again later"), "Throttled unnamed"),
    Case(
        "your capacity is a quota",
        error("Exhausted your capacity. Your quota will reset after 3s."),
        "Throttled unnamed",
        (),
        3,
    ),
    Case(
        "a window of none",
        error("x", quota(limit("RequestsPerHour", "5")), wait("3700s")),
        "Throttled unnamed",
        (),
        3700,
    ),
    Case("a wait alone", error("x", wait({"seconds": "12"})), "Throttled unnamed", (), 12),
    # the rest of §7.2
    Case("500", error("An internal error has occurred.", status="INTERNAL"), "Faulted", status=500),
    Case("502", b"<h1>502 Server Error</h1>", "Faulted", status=502),
    Case("500, empty", b"", "Faulted unknown", status=500),
    Case("504", error("Deadline expired", status="DEADLINE_EXCEEDED"), "Faulted unknown", status=504),
    Case("499", error("cancelled", status="CANCELLED"), "Faulted unknown", status=499),
    Case("408", b"", "Faulted unknown", status=408),
    Case("413", b"<h1>413 Too Large</h1>", "Invalid", status=413),
    Case("400", error("input token count exceeds", status="INVALID_ARGUMENT"), "Invalid", status=400),
    Case(
        "400 quotes a prompt",
        error("a poster: monthly spend cap", status="INVALID_ARGUMENT"),
        "Invalid",
        status=400,
    ),
    Case(
        "400, key",
        error("API key not valid. Please pass one.", status="INVALID_ARGUMENT"),
        "Stopped key",
        status=400,
    ),
    Case("403", error("unregistered callers", status="PERMISSION_DENIED"), "Stopped key", status=403),
    Case("404", error("models/x is not found", status="NOT_FOUND"), "Stopped model_gone", status=404),
    Case("404, a page", b"<h1>Not Found</h1>", "Stopped endpoint", status=404),
]
