"""No secret gets through, and nothing else is lost."""

import pytest

from neuneu.core.redaction import without_secrets

KEY_ID = "AKIA" + "IOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfi"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:hunter2@host/x", "https://***@host/x"),
        (
            f"https://b.s3/k?X-Amz-Credential={KEY_ID}%2Fus&X-Amz-Date=1&X-Amz-Signature=0ff1ce"
            "&X-Amz-Security-Token=FwoG%2B&part=2",
            "https://b.s3/k?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***"
            "&X-Amz-Security-Token=***&part=2",
        ),
        (f"?AWSAccessKeyId={KEY_ID}&Signature=a%2Fb&Expires=7", None),
        (f"Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/x, Signature=0ff1ce", None),
        ("{'Authorization': 'Basic bWU6aHVudGVyMg==', 'x': 1}", "{'Authorization': '***', 'x': 1}"),
        ("curl -H 'X: Bearer abc.def-123'", "curl -H 'X: Bearer ***'"),
        (f"aws_secret_access_key = {SECRET}", "aws_secret_access_key = ***"),
        (f'{{"SecretAccessKey": "{SECRET}", "n": 1}}', '{"SecretAccessKey": "***", "n": 1}'),
        (
            f"<Id>{KEY_ID}</Id><SessionToken>{SECRET}</SessionToken>",
            "<Id>***</Id><SessionToken>***</SessionToken>",
        ),
        ("token hf_" + "a" * 34 + " is not valid", "token *** is not valid"),
    ],
)
def test_credentials_by_their_form_are_blotted_out(text: str, expected: str | None) -> None:
    found = without_secrets(text)
    if expected is not None:
        assert found == expected
    for secret in ("hunter2", KEY_ID, SECRET, "0ff1ce", "a%2Fb", "FwoG", "bWU6"):
        assert secret not in found


@pytest.mark.parametrize(
    "text",
    [
        "prefix_token: bos, else eos; 12 tokens: 5",
        "s3://bucket/key=1/file: expected 3 bytes, found 4 (signature of the file)",
        "mail a@b.example about https://host/path?page=2",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "RAY_AUTH_TOKEN",
    ],
)
def test_values_of_secret_variables_are_blotted_out_wherever(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "open sesame")
    assert without_secrets("it said 'open sesame'.") == "it said '***'."
    monkeypatch.setenv(name, "1")
    assert without_secrets("step 1 of 11") == "step 1 of 11"


def test_variables_that_are_no_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/token")
    assert without_secrets("false: /var/token") == "false: /var/token"
