"""Texts that would be markup, code or chaos if anyone took them for more than text."""

import json
from pathlib import Path

JOB = '</title><script>alert(1)</script> it\'s & "mine"'

TEXTS = {
    "script": "</script><script>window.hacked = 1</script>",
    "image": '<img src=x onerror="window.hacked = 1">',
    "svg": "<svg/onload=window.hacked=1>",
    "comment": "<!--<script>--> ]]> <![CDATA[",
    "handler": '" autofocus onfocus=window.hacked=1 x="\'',
    "template": "${window.hacked = 1} `+window.hacked++` {{7*7}} {0}",
    "separators": "a\u2028window.hacked=1\u2029b\u0085c",
    "escapes": "\\u003c/script\\u003e \\\\ \\x3cscript\\x3e \\",
    "entities": "&lt;script&gt; &#x3c; &amp;amp;",
    "link": "javascript:window.hacked=1 https://example.invalid/x.png //example.invalid",
    "style": "</style><style>*{display:none}</style> @import url(https://example.invalid)",
    "right": "\u202egnp.exe\u202c \u200b\ufeff עברית العربية",
    "zalgo": "Z\u0351\u036b\u0343\u036aA\u0305\u035aL\u0349G\u033fO",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 日本語 ไทย",
    "nul": "tab\there, bell is not printable",
    "proto": "__proto__ constructor toString",
    "lines": "first\n\n  second\n\tthird",
    "long": "word" * 3_000,
    "formula": '=HYPERLINK("https://example.invalid") +1 @SUM(A1)',
    "rich": "[bold red]not bold[/bold red] [link=https://example.invalid]x[/link]",
}

STYLES = ("</script>", "&<>\u2028\"'`", "__proto__")


def write_hostile(folder: Path) -> Path:
    """A manifest of all of them, with such a name and such axis values."""
    rows = [json.dumps({"id": name, "text": text}) for name, text in TEXTS.items()]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    document = {
        "job": JOB,
        "model": "gemini-3.1-flash-image-preview",
        "prompts": [{"from": "texts.jsonl", "template": False}],
        "matrix": {"size": "512", "style": STYLES},
        "output": "h/{prompt}/{key}.{ext}",
    }
    path = folder / "hostile.yaml"
    path.write_text(json.dumps(document))
    return path
