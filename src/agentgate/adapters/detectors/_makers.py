"""The patterns of detect-secrets for keys and tokens, by their makers, as RE2 takes them.

RE2 knows no looking around; where a pattern of theirs looks ahead or behind, ours asks for less, and so finds more.
"""

from __future__ import annotations

import re
from typing import Final

from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.cloudant import CloudantDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.ibm_cloud_iam import IbmCloudIamDetector
from detect_secrets.plugins.ibm_cos_hmac import IbmCosHmacDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.softlayer import SoftlayerDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

PLUGINS: Final[tuple[type[RegexBasedDetector], ...]] = (
    ArtifactoryDetector,
    AWSKeyDetector,
    AzureStorageKeyDetector,
    CloudantDetector,
    DiscordBotTokenDetector,
    GitHubTokenDetector,
    GitLabTokenDetector,
    IbmCloudIamDetector,
    IbmCosHmacDetector,
    JwtTokenDetector,
    MailchimpDetector,
    NpmDetector,
    OpenAIDetector,
    PypiTokenDetector,
    SendGridDetector,
    SlackDetector,
    SoftlayerDetector,
    SquareOAuthDetector,
    StripeDetector,
    TelegramBotTokenDetector,
    TwilioKeyDetector,
)
"""All that know a maker's form. Not among them: those that guess by entropy or by a name beside the
value, and private keys, of which theirs finds the first line."""

_DISCORD: Final = r"[MNO][a-zA-Z\d_-]{23,25}\."
_DISCORD_AT_LEAST: Final = r"[a-zA-Z\d_-]{24}\."

_LOOKING_AROUND: Final = re.compile(r"\(\?(?:!|<!|=)(?:[^()\\]|\\.)*\)")


def patterns() -> list[str]:
    """Every pattern that these plugins have."""
    found = []
    for plugin in PLUGINS:
        for regex in plugin().denylist:
            flags = "i" if regex.flags & re.IGNORECASE else ""
            found.append(f"(?{flags}:{_linear(regex.pattern)})")
    return found


def at_least(pattern: str) -> str:
    """A pattern that is in every text which has `pattern` in it, for one look for many. Discord's would make that slow:
    an automaton has to know which of the last letters may have begun one, and so meets a new state at nearly every
    letter of base64."""
    return pattern.replace(_DISCORD, _DISCORD_AT_LEAST)


def _linear(pattern: str) -> str:
    pattern = pattern.replace(r"(?:(?<=\W)|(?<=^))", r"(?:\W|^)").replace("{50,1024}", "{50,}")
    return _LOOKING_AROUND.sub("", pattern)
