"""Confluent Schema Registry framing: a zero byte and a schema id before the payload, or the schema's id in a header.

One Protocol, :class:`RegistryDecoder`; :class:`ConfluentRegistry` speaks to a real registry through confluent-kafka's
own deserializers (extra ``registry``), :class:`FakeRegistry` is for tests and for machines without one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from schemas.errors import DecodeError, RegistryError
from schemas.headers import Headers
from schemas.records import RawRecord
from schemas.validation import decode_json

__all__ = ["ConfluentRegistry", "FakeRegistry", "RegistryDecoder", "is_framed"]

_ID_HEADER = "__value_schema_id"
_PREFIX_BYTES = 5


class RegistryDecoder(Protocol):
    """Decodes framed values."""

    def decode(self, record: RawRecord) -> Any:
        """The plain Python value of ``record``: a mapping for an Avro record or a JSON object.

        Raises:
            DecodeError: the payload does not fit its schema, or the registry has no such schema.
            RegistryError: the registry cannot be asked.
        """
        ...


def is_framed(record: RawRecord, headers: Headers) -> bool:
    """Whether the value is in registry framing. No text, JSON or image that we accept begins with a zero byte."""
    return _ID_HEADER in headers or (record.value or b"").startswith(b"\x00")


def schema_name(record: RawRecord) -> str:
    """The schema that ``record`` names, for messages. Raises DecodeError when the framing is cut short."""
    value = record.value or b""
    if _ID_HEADER in Headers(record.headers):
        return f"in header {_ID_HEADER}"
    if len(value) <= _PREFIX_BYTES:
        raise DecodeError(
            f"the value begins with a zero byte, as in Schema Registry framing, but ends after {len(value)} bytes."
        )
    return str(struct.unpack(">I", value[1:_PREFIX_BYTES])[0])


class FakeRegistry:
    """A registry in memory whose payloads are all JSON.

    Args:
        names: the known schema ids with a name for each.
        reachable: ``False`` plays an outage.
    """

    def __init__(self, names: Mapping[int, str], *, reachable: bool = True) -> None:
        self._names = dict(names)
        self.reachable = reachable

    def decode(self, record: RawRecord) -> Any:
        """See :class:`RegistryDecoder`."""
        name = schema_name(record)
        if not self.reachable:
            raise RegistryError("the schema registry cannot be reached.")
        if not name.isdigit() or int(name) not in self._names:
            raise DecodeError(f"schema {name} is not in the registry.")
        return decode_json((record.value or b"")[_PREFIX_BYTES:], where="value")


class ConfluentRegistry:
    """A real registry, or confluent-kafka's in-memory one (``mock://``). Safe to use from several threads.

    Args:
        url: the registry's address; several separated by commas.
        client: further settings of confluent-kafka's ``SchemaRegistryClient``, such as ``basic.auth.user.info``.

    Raises:
        ModuleNotFoundError: the extra ``registry`` is not installed.
    """

    def __init__(self, url: str, client: Mapping[str, Any] | None = None) -> None:
        # Imported here: an extra, and half a second that a worker without a registry need not pay.
        from confluent_kafka import schema_registry
        from confluent_kafka.schema_registry.avro import AvroDeserializer
        from confluent_kafka.schema_registry.json_schema import JSONDeserializer

        self.client = schema_registry.SchemaRegistryClient.new_client({"url": url, **(client or {})})
        # By topic: the default asks the registry for "associations" first, which older registries do not have.
        conf = {"subject.name.strategy": schema_registry.topic_subject_name_strategy}
        self._deserializers = {
            "AVRO": AvroDeserializer(self.client, conf=conf),
            "JSON": JSONDeserializer(None, schema_registry_client=self.client, conf=conf),
        }

    def decode(self, record: RawRecord) -> Any:
        """See :class:`RegistryDecoder`."""
        from confluent_kafka.serialization import MessageField, SerializationContext

        name = schema_name(record)
        context = SerializationContext(record.topic, MessageField.VALUE, list(record.headers))
        try:
            kind = self._schema_type(record.value or b"", context)
            deserialize = self._deserializers.get(kind)
            if deserialize is not None:
                return deserialize(record.value, context)
        except Exception as error:
            raise _explain(error, name) from error
        raise DecodeError(f"schema {name} is of type {kind!r}. Use Avro or JSON Schema.")

    def _schema_type(self, value: bytes, context: Any) -> str:
        from confluent_kafka.schema_registry import dual_schema_id_deserializer
        from confluent_kafka.schema_registry.serde import SchemaId

        schema_id = SchemaId("")
        dual_schema_id_deserializer(value, context, schema_id)
        if schema_id.guid is not None:
            return str(self.client.get_schema_by_guid(str(schema_id.guid)).schema_type)
        return str(self.client.get_schema(cast(int, schema_id.id)).schema_type)


def _explain(error: Exception, name: str) -> DecodeError | RegistryError:
    """Whose fault ``error`` is: the registry's (it cannot be reached, or refuses us) or the record's."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    if isinstance(error, SchemaRegistryError) and error.http_status_code == 404:
        return DecodeError(f"schema {name} is not in the registry: {error.error_message}.")
    if isinstance(error, SchemaRegistryError) or any(_is_transport(cause) for cause in _causes(error)):
        return RegistryError(f"the schema registry could not give schema {name}: {error}.")
    return DecodeError(f"the value does not fit schema {name}: {str(error)[:500] or type(error).__name__}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_transport(error: BaseException) -> bool:
    """Whether the network or the HTTP client failed. By module: confluent-kafka changes clients (httpx, httpx2)."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore"))
