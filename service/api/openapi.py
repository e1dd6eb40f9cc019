"""The OpenAPI document: what the framework knows of its own routes, and what it cannot know of /predict and /v2."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service import problems
from service.api.body import FORM, JSON, RAW_TYPES
from service.api.open_inference.messages import InferRequest
from service.api.request import PRIORITIES

Schema = dict[str, Any]

_DESCRIPTION = """
Image classification. POST an image to `/predict`, or speak the Open Inference Protocol below `/v2`.
Refusals are RFC 9457 problem details that say what is required, then what was given.
"""

_REFUSALS = {
    "400": "It does not decode or parse, or a parameter is malformed or unknown",
    "401": "An API key is needed",
    "403": "The API key is not for this",
    "404": "No such model or version",
    "408": "The head or the body did not come in time",
    "413": "The body, an image or the number of inputs is over its limit",
    "415": "A content type that is not taken",
    "422": "Well-formed, but of the wrong shape or value for the model",
    "429": "The queue is full; Retry-After says for how long",
    "500": "The model fails on this input, or a bug",
    "503": "Starting, or no worker; with Retry-After",
    "504": "The deadline passed",
}


def document(app: FastAPI) -> Schema:
    """The OpenAPI document of `app`."""
    found: Schema = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    found["paths"] |= {"/predict": {"post": _predict()}} | _open_inference()
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas |= {"Problem": _PROBLEM, "Prediction": _PREDICTION, "Predictions": _PREDICTIONS, "ProtocolError": _ERROR}
    request = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= request.pop("$defs") | {"InferRequest": request, "InferResponse": _INFER_RESPONSE}
    found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{}, {"key": []}]
    return found


def _predict() -> Schema:
    image = {"schema": {"type": "string", "format": "binary"}}
    form: Schema = {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}
    return {
        "summary": "Classify images or feature vectors",
        "description": "Answers come in the order of the inputs. Among several images a bad one is an entry with its "
        "error, and the others are answered; when all are bad, the request is refused.",
        "operationId": "predict",
        "parameters": [
            _parameter("model", {"type": "string"}, "Which model; by default the service's default model"),
            _parameter("version", {"type": "string"}, "A number or an alias; by default what is in production"),
            _parameter("top_k", _whole_number(), "Add the most probable classes, so many at most"),
            _parameter("probabilities", {"type": "boolean"}, "Add the probability of every class, in their order"),
            _parameter("show_input", {"type": "boolean"}, "Add what the network saw, as a PNG data URL"),
            _parameter("priority", {"type": "string", "enum": list(PRIORITIES)}, "Bulk requests yield to the rest"),
            _parameter("X-Request-Timeout-Ms", _whole_number(), "Deadline, from the request's arrival", "header"),
            _parameter("X-Request-ID", {"type": "string"}, "Sent back with the answer", "header"),
        ],
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(sorted(RAW_TYPES), image)
            | {
                FORM: {"schema": form},
                JSON: {
                    "schema": {"oneOf": [_only("image", _BASE64), _only("images", _list(_BASE64)), _FEATURES]},
                    "examples": {
                        "image": {"value": {"image": _PICTURE}},
                        "images": {"value": {"images": [_PICTURE, f"data:image/png;base64,{_PICTURE}"]}},
                        "features": {"value": {"features": [[0.5, -1.2]]}},
                    },
                },
            },
        },
        "responses": {
            "200": {
                "description": "A prediction for each input, in order",
                "headers": {name: {"schema": {"type": "string"}} for name in _ANSWER_HEADERS},
                "content": {
                    JSON: {
                        "schema": {"$ref": "#/components/schemas/Predictions"},
                        "example": {
                            "model": "mnist",
                            "version": 3,
                            "predictions": [{"class_id": 7, "label": "7", "probability": 0.998}],
                        },
                    }
                },
            },
            **_refusals(problems.MEDIA_TYPE, "Problem", *_REFUSALS),
        },
    }


def _open_inference() -> Schema:
    infer: Schema = {
        "summary": "Infer",
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"$ref": "#/components/schemas/InferRequest"}, "example": _INFER_EXAMPLE},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": {
                "description": "The outputs that were asked for",
                "content": {
                    JSON: {"schema": {"$ref": "#/components/schemas/InferResponse"}},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **_refusals(JSON, "ProtocolError", *_REFUSALS),
        },
    }
    paths: Schema = {
        "/v2": {"get": _get("Server metadata")},
        "/v2/health/live": {"get": _get("Whether the server is live")},
        "/v2/health/ready": {"get": _get("Whether the server is ready", "503", schema="object")},
        "/v2/repository/index": {
            "post": _get("The models that are served", schema="array") | {"requestBody": {"content": {JSON: {}}}}
        },
    }
    for prefix, names in (
        ("/v2/models/{model}", ["model"]),
        ("/v2/models/{model}/versions/{version}", ["model", "version"]),
    ):
        parameters = [_parameter(name, {"type": "string", "minLength": 1}, "", "path") for name in names]
        for suffix, method, operation in (
            ("", "get", _get("Model metadata", "404", "503")),
            ("/ready", "get", _get("Whether the model is ready", "404", "503")),
            ("/config", "get", _get("Model configuration", "404", "503")),
            ("/infer", "post", infer),
        ):
            paths[f"{prefix}{suffix}"] = {method: operation, "parameters": parameters}
    return paths


def _get(summary: str, *refusals: str, schema: str = "object") -> Schema:
    answer = {"description": summary, "content": {JSON: {"schema": {"type": schema}}}}
    return {"summary": summary, "responses": {"200": answer, **_refusals(JSON, "", "401", "403", *refusals)}}


def _refusals(media_type: str, schema: str, *statuses: str) -> Schema:
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


def _parameter(name: str, schema: Schema, description: str, place: str = "query") -> Schema:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


def _whole_number() -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": 999_999_999}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _only(key: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {key: schema}, "required": [key], "additionalProperties": False}


_ANSWER_HEADERS = ("X-Request-ID", "Server-Timing", "X-Model", "X-Model-Version", "X-Model-Digest")

# One white pixel.
_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="

_INFER_EXAMPLE: Schema = {
    "inputs": [{"name": "features", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1.2]}],
    "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}],
}

_BASE64: Schema = {"type": "string", "description": "Base64 of an image file, or a data URL"}

_FEATURES: Schema = _only("features", _list(_list({"type": "number"})))

_CLASS: Schema = {
    "class_id": {"type": "integer", "minimum": 0},
    "label": {"type": "string"},
    "probability": {"type": "number", "minimum": 0, "maximum": 1},
}

_PROBLEM: Schema = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is required, then what was given"},
    },
    "required": ["type", "title", "status", "detail"],
    "examples": [
        {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": "top_k must be a whole number of at least 1. Given: '0'",
        }
    ],
}

_PREDICTION: Schema = {
    "type": "object",
    "properties": _CLASS
    | {
        "top_k": {"type": "array", "items": {"type": "object", "properties": _CLASS, "required": list(_CLASS)}},
        "probabilities": {"type": "array", "items": {"type": "number"}},
        "input": {"type": "string", "description": "A PNG data URL"},
        "error": {
            "type": "object",
            "properties": {"status": {"type": "integer"}, "detail": {"type": "string"}},
            "required": ["status", "detail"],
        },
    },
    "oneOf": [{"required": list(_CLASS)}, {"required": ["error"]}],
}

_PREDICTIONS: Schema = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "integer", "minimum": 1},
        "predictions": _list({"$ref": "#/components/schemas/Prediction"}),
    },
    "required": ["model", "version", "predictions"],
}

_ERROR: Schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}

_INFER_RESPONSE: Schema = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": _list(
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "parameters": {"type": "object"},
                    "data": {"type": "array"},
                },
                "required": ["name", "datatype", "shape"],
            }
        ),
    },
    "required": ["model_name", "model_version", "outputs"],
}
