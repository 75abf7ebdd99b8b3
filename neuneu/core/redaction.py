"""Redaction of secrets in texts for logs, errors and records of other programs."""

import math
import os
import re
from typing import Any, Final

_HIDDEN: Final = "***"
_NAMES: Final = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|ACCESS_KEY_ID)$")
_SHORTEST: Final = 4
"""Shorter values are switches such as `1`, whose removal would ruin every text."""

_NAMED: Final = (
    "x-amz-signature|x-amz-credential|x-amz-security-token|awsaccesskeyid|signature|sig"
    "|(?:aws_?)?secret_?access_?key|(?:aws_?)?session_?token|access_?token|auth_?token"
    "|api_?key|password|passwd"
)
_PATTERNS: Final = (
    # https://user:password@host
    (re.compile(r"://[^/@\s]*@"), f"://{_HIDDEN}@"),
    # a header with everything after it: it has several fields
    (re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)[^\"'\n]+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), r"\1***"),
    # name=value of a query, a config or JSON, <Name>value of XML
    (re.compile(rf"(?i)\b({_NAMED})([\"']?\s*[:=>]\s*[\"']?)[^\s\"'&,;<>)}}\]]+"), r"\1\2***"),
    # AWS key ids and Hugging Face tokens, by their form
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), _HIDDEN),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}\b"), _HIDDEN),
)


def without_secrets(text: str) -> str:
    """Return a text with credentials replaced by `***`.

    Credentials are the values of environment variables whose names end like that of a secret
    (AWS_SECRET_ACCESS_KEY, HF_TOKEN, WANDB_API_KEY, ...), everything before `@` in a URL,
    signatures and tokens of presigned URLs, authorization headers, and values that follow the
    name of a secret.
    """
    secrets = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _NAMES.search(name.upper())
    }
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def cleaned(value: Any) -> Any:
    """Return a value in JSON types, with credentials removed from its texts.

    Anything that JSON cannot hold, such as NaN, becomes text.
    """
    if isinstance(value, dict):
        return {str(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return without_secrets(str(value))
