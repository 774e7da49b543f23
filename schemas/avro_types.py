"""Avro record schemas of our structs, by msgspec's own description of their types. Source: Apache Avro 1.11.

Bounds (lengths, ranges) have no place in Avro; they are checked when a record is decoded.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct, inspect

__all__ = ["avro_schema"]

_NAMESPACE = "millrace"
_PRIMITIVES: dict[type[inspect.Type], Any] = {
    inspect.StrType: "string",
    inspect.LiteralType: "string",  # Avro's enum symbols allow no hyphen
    inspect.IntType: "long",
    inspect.FloatType: "double",
    inspect.BoolType: "boolean",
    inspect.BytesType: "bytes",
    inspect.NoneType: "null",
    inspect.DateTimeType: {"type": "long", "logicalType": "timestamp-millis"},
}


def avro_schema(struct: type[Struct]) -> dict[str, Any]:
    """The Avro schema of ``struct``. Raises TypeError for a field type that has none."""
    info = inspect.type_info(struct)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{struct!r} is not a struct.")
    return {**_record(info), "namespace": _NAMESPACE}


def _record(info: inspect.StructType) -> dict[str, Any]:
    doc = " ".join((info.cls.__doc__ or "").partition("\n\n")[0].split())
    return {"type": "record", "name": info.cls.__name__, "doc": doc, "fields": [_field(field) for field in info.fields]}


def _field(field: inspect.Field) -> dict[str, Any]:
    described = {"name": field.encode_name, "type": _type(field.type)}
    default = field.default
    if default is NODEFAULT and field.default_factory is not NODEFAULT:
        default = field.default_factory()
    if default is NODEFAULT:
        return described
    if default is None:  # a union's default belongs to its first branch
        described["type"] = ["null", *(branch for branch in described["type"] if branch != "null")]
    return described | {"default": msgspec.to_builtins(list(default) if isinstance(default, tuple) else default)}


def _type(info: inspect.Type) -> Any:
    match info:
        case inspect.Metadata():
            return _type(info.type)
        case inspect.StructType():
            return _record(info)
        case inspect.UnionType():
            return [_type(branch) for branch in info.types]
        case inspect.VarTupleType():
            return {"type": "array", "items": _type(info.item_type)}
        case inspect.DictType():
            return {"type": "map", "values": _type(info.value_type)}
    if type(info) not in _PRIMITIVES:
        raise TypeError(f"Avro has no type for {info!r}.")
    return _PRIMITIVES[type(info)]
