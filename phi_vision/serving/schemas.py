"""Requests of the API, and records: validation and OpenAPI description in one place.

Nothing is coerced, and nothing is dropped silently: fields without effect are described as ignored,
unknown and unsupported ones rejected unless null. openapi.yaml describes the other responses.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.functional_validators import BeforeValidator, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from phi_vision.data.samples import Value
from phi_vision.data.template import Kind


def _unsupported(value: object, validate: Callable[[object], object]) -> object:
    """Reject all values of an unsupported field but those without effect."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("unsupported", "not supported here; leave it out") from None


def _integer(value: object) -> object:
    """Read 3.0 as 3: the same number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=1), BeforeValidator(_integer)]
# Integers that JSON carries exactly from any language (RFC 8259, 6).
Seed = Annotated[int, Field(ge=1 - 2**53, le=2**53 - 1), BeforeValidator(_integer)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
ImageUri = Annotated[str, Field(min_length=1, json_schema_extra={"format": "uri"})]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
OnlyText = Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Empty = Annotated[list[Any], Field(max_length=0)]
T = TypeVar("T")
Parts = Annotated[list[T], Field(max_length=256, fail_fast=True)]
# A field that must be left out or have one of the values without effect.
Unsupported = Annotated[T | None, WrapValidator(_unsupported)]
# A field of OpenAI's API that has no effect on the response here.
Ignored = Annotated[Any, Field(description="ignored")]
ModelName = Annotated[str | None, Field(description="the name that /v1/models lists, or nothing")]


class Request(BaseModel):
    """Settings of all request schemas."""

    # With any limit of length pydantic checks that strings have no lone surrogates, which JSON can
    # spell and UTF-8 cannot encode.
    model_config = ConfigDict(
        strict=True,
        extra="allow",
        frozen=True,
        str_min_length=0,
        json_schema_extra={"additionalProperties": {"type": "null"}},
    )

    @model_validator(mode="after")
    def _has_only_known_fields(self) -> Self:
        fields = type(self).model_fields
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                known = [field.alias or each for each, field in fields.items()]
                context = {"name": name.encode("utf-8", "replace").decode(), "known": known}
                raise PydanticCustomError("unknown_field", "unknown", context)
        return self


class TextPart(Request):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Request):
    """Location of an image."""

    url: ImageUri = Field(description="data:image/jpeg;base64,… (PNG, WebP); http(s) if allowed")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="ignored")


class ImagePart(Request):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(Request):
    """Instructions for the whole conversation."""

    role: Literal["system", "developer"]
    name: Ignored = None
    content: str | Annotated[Parts[TextPart], Field(min_length=1)]


class UserMessage(Request):
    """Text and images of the user."""

    role: Literal["user"]
    name: Ignored = None
    content: str | Annotated[Parts[Part], Field(min_length=1)]


class AssistantMessage(Request):
    """An earlier response."""

    role: Literal["assistant"]
    name: Ignored = None
    content: str | Parts[TextPart] | None = None
    annotations: Unsupported[Empty] = None
    tool_calls: Unsupported[Empty] = None
    function_call: Unsupported[None] = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class TextFormat(Request):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(Request):
    """Any JSON object, or JSON that matches a schema."""

    type: Literal["json_object"]
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="a JSON schema")


class NamedSchema(Request):
    """A JSON schema of the response."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", description="a JSON schema")
    strict: bool | None = Field(None, description="ignored: schemas are always enforced")


class SchemaFormat(Request):
    """JSON that matches a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = TextFormat | ObjectFormat | SchemaFormat


class StreamOptions(Request):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class ChatRequest(Request):
    """OpenAI's request for a chat completion."""

    messages: Parts[Message] = Field(min_length=1)
    model: ModelName = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = Field(None, description="overrides max_tokens")
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(None, description="default 0")
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Seed | None = Field(None, description="makes sampling deterministic, in any batch")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    logprobs: bool | None = Field(None, description="a stream returns all in its last chunk")
    top_logprobs: Unsupported[Zero] = None
    response_format: Annotated[Format, Field(discriminator="type")] | None = None
    n: Unsupported[Annotated[Count, Field(le=1)]] = None
    tools: Unsupported[Empty] = None
    tool_choice: Unsupported[Literal["none", "auto"]] = None
    functions: Unsupported[Empty] = None
    function_call: Unsupported[Literal["none", "auto"]] = None
    modalities: Unsupported[OnlyText] = None
    audio: Unsupported[None] = None
    web_search_options: Unsupported[None] = None
    frequency_penalty: Unsupported[Zero] = None
    presence_penalty: Unsupported[Zero] = None
    logit_bias: Unsupported[Annotated[dict[str, Any], Field(max_length=0)]] = None
    # Sampling fields of other servers.
    top_k: Unsupported[Annotated[int, Field(ge=-1, le=0)]] = None
    min_p: Unsupported[Zero] = None
    repetition_penalty: Unsupported[One] = None
    best_of: Unsupported[One] = None
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    safety_identifier: Ignored = None


class RecordQuery(Request):
    """Parameters beside an image or a body."""

    constrained: Literal["false", "true"] = "false"


class RecordRequest(Request):
    """One image of a product, or several."""

    model_config = ConfigDict(
        json_schema_extra={
            "additionalProperties": {"type": "null"},
            "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
        },
    )

    # Factories, as a description's defaults would not match it.
    image: ImageUri = Field(
        default_factory=str, description="data:image/jpeg;base64,… (also PNG, WebP)"
    )
    images: Parts[ImageUri] = Field(
        default_factory=list, min_length=1, description="several, instead of `image`"
    )
    constrained: bool = Field(False, description="decode only text that parses")
    model: ModelName = None

    @model_validator(mode="after")
    def _has_image_or_images(self) -> Self:
        if len({"image", "images"} & self.model_fields_set) != 1:
            raise PydanticCustomError("one_of", "send either `image` or `images`")
        return self


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int = Field(description="including image tokens")
    completion_tokens: int
    total_tokens: int


class RecordResponse(BaseModel):
    """The predicted record."""

    id: str
    object: Literal["record"] = "record"
    created: int
    model: str
    text: str = Field(description="the generated text, verbatim")
    record: dict[str, Value] | None = Field(description="null if the text does not parse")
    kinds: dict[str, Kind] = Field(description="type of each field")
    confidence: dict[str, Probability] = Field(description="{} without a record")
    calibrated: bool = Field(description="whether confidence is calibrated on an evaluation")
    target_precision: Probability | None = Field(
        description="share of correct values promised among the accepted ones; null: none"
    )
    accept: dict[str, bool] = Field(
        description='whether a field, and the "whole record", needs no review; {} without a target'
    )
    accepted_path: dict[str, str | None] = Field(
        description="each path as far down as it needs no review; {} without one, or a target"
    )
    seconds: Annotated[float, Field(ge=0)] = Field(description="from request to response")
    usage: Usage
