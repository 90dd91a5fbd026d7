"""What requests and answers look like: what is checked and what is described, in one place.

Nothing is converted on the way in: "1" is no number. What a request holds besides is ignored, as
OpenAI's own server does, unless it asks for what this one cannot do: that is refused.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from phi_vision.data.template import Kind


@dataclass(frozen=True)
class Only:
    """The mark of a part that must be left out, or be as good as left out.

    Args:
        values: What it may be.
    """

    values: tuple[object, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Refuse everything else, in words."""

        def check(value: object) -> object:
            if not any(type(value) is type(each) and value == each for each in self.values):
                raise PydanticCustomError("unsupported", "not supported here; leave it out")
            return value

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe it; to JSON 0 and 0.0 are one number."""
        return {"enum": [value for value in self.values if not isinstance(value, float)]}


def whole_number(value: object) -> object:
    """Read 3.0 as 3: to JSON both are one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_characters(text: str) -> str:
    """Refuse halves of characters, which JSON can spell and nothing else can hold."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("torn", "it holds half a character (a lone surrogate)")
    return text


Count = Annotated[int, Field(ge=1), BeforeValidator(whole_number)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), BeforeValidator(whole_number)]
"""Torch takes 64 bits."""

Text = Annotated[str, AfterValidator(whole_characters)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _is_none(value: object) -> bool:
    return value is None


class Request(BaseModel):
    """How all that callers send is read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TextPart(Request):
    """Words of a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(Request):
    """Where an image is."""

    url: Text = Field(
        description="data:image/jpeg;base64,… (PNG and WebP too), or an http(s) address where the "
        "server allows its host"
    )
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="without effect: images are cut as the model was trained"
    )


class ImagePart(Request):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(Request):
    """What holds for the whole conversation."""

    role: Literal["system", "developer"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]


class UserMessage(Request):
    """What the user says and shows."""

    role: Literal["user"]
    content: Text | Annotated[list[Part], Field(min_length=1)]


class AssistantMessage(Request):
    """What was answered before."""

    role: Literal["assistant"]
    content: Text | list[TextPart] | None = None
    tool_calls: Annotated[Any, Only((None, []))] = None
    function_call: Annotated[Any, Only((None,))] = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage,
    Field(discriminator="role"),
]


class PlainFormat(Request):
    """An answer in words."""

    type: Literal["text"]


class ObjectFormat(Request):
    """An answer that is one JSON object."""

    type: Literal["json_object"]


class NamedSchema(Request):
    """What JSON is wanted."""

    name: Text | None = None
    description: Text | None = None
    schema_: dict[Text, Any] = Field(alias="schema", description="a JSON schema")
    strict: bool | None = Field(None, description="without effect: schemas are always kept to")


class SchemaFormat(Request):
    """An answer that is the JSON a schema takes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class StreamOptions(Request):
    """What else a stream tells."""

    include_usage: bool | None = None


Stop = Annotated[Text, Field(min_length=1, max_length=200)]


class ChatRequest(Request):
    """A question in OpenAI's form."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    model: Text | None = Field(None, description="the name that /v1/models gives, or nothing")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = Field(None, description="goes before max_tokens")
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(
        None, description="0, the likeliest answer, unless given: a record is wanted"
    )
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Seed | None = Field(
        None, description="the same seed draws the same answer, alone or in a batch"
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    logprobs: bool | None = Field(
        None, description="with them a stream tells all in its last chunk"
    )
    top_logprobs: Annotated[Any, Only((None, 0, 0.0))] = None
    response_format: (
        Annotated[PlainFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    n: Annotated[Any, Only((None, 1, 1.0))] = None
    user: Text | None = None
    tools: Annotated[Any, Only((None, []))] = None
    tool_choice: Annotated[Any, Only((None, "none", "auto"))] = None
    functions: Annotated[Any, Only((None, []))] = None
    function_call: Annotated[Any, Only((None, "none", "auto"))] = None
    modalities: Annotated[Any, Only((None, ["text"]))] = None
    audio: Annotated[Any, Only((None,))] = None
    web_search_options: Annotated[Any, Only((None,))] = None
    frequency_penalty: Annotated[Any, Only((None, 0, 0.0))] = None
    presence_penalty: Annotated[Any, Only((None, 0, 0.0))] = None
    logit_bias: Annotated[Any, Only((None, {}))] = None


class TokenLogprob(BaseModel):
    """A token of an answer."""

    token: str = Field(description='what it writes; "" for one that ends the answer')
    logprob: float
    bytes: list[Annotated[int, Field(ge=0, le=255)]]
    top_logprobs: list[None] = Field(default=[], max_length=0)


class Logprobs(BaseModel):
    """The tokens of an answer, in order; their bytes are the answer."""

    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    """What was answered."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


FinishReason = Literal["stop", "length"]


class Choice(BaseModel):
    """The only answer there is."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int = Field(description="those that images became included")
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """An answer in OpenAI's form."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice] = Field(min_length=1, max_length=1)
    usage: Usage


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=_is_none)
    content: str | None = Field(default=None, exclude_if=_is_none)


class ChunkChoice(BaseModel):
    """The only answer there is, continued."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class RecordRequest(Request):
    """Images whose record is wanted: one, or several of one product."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["image"]}, {"required": ["images"]}]},
    )

    image: Text = Field("", description="data:image/jpeg;base64,… (PNG and WebP too)")
    images: list[Text] = Field([], min_length=1, description="several, instead of `image`")
    constrained: bool = Field(
        False, description="write nothing but the template's form, so that it can be read"
    )
    model: Text | None = Field(None, description="the name that /v1/models gives, or nothing")

    @model_validator(mode="after")
    def _holds_one_of_both(self) -> Self:
        if len({"image", "images"} & self.model_fields_set) != 1:
            raise PydanticCustomError("one_of", "give either `image` or `images`")
        return self


class RecordAnswer(BaseModel):
    """What was read off images."""

    id: str
    object: Literal["record"] = "record"
    created: int
    model: str
    text: str = Field(description="the answer as it was written")
    record: dict[str, str | int | float | bool | None] | None = Field(
        description="null where the answer is not in the template's form"
    )
    kinds: dict[str, Kind] = Field(description="what each field holds")
    confidence: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        description="how likely each field is right; {} without a record"
    )
    calibrated: bool = Field(
        description="whether confidence was corrected by what an evaluation found"
    )
    seconds: Annotated[float, Field(ge=0)] = Field(description="from request to answer")
    usage: Usage


class Model(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["phi-vision"] = "phi-vision"


class ModelList(BaseModel):
    """All models that can be asked: one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "draining", "failed"]


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """An error, in OpenAI's form."""

    error: ErrorFacts
