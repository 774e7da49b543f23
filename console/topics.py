"""`millrace topics`: create what is missing of the topics, on whatever Kafka the settings name."""

from __future__ import annotations

import click

from agents.topics import create_topics
from console.cluster import connected_settings
from console.output import Output, json_option

__all__ = ["topics"]


@click.command()
@json_option
def topics(*, as_json: bool) -> None:
    """Create the topics that do not exist yet. `millrace up` does this too; a cluster of your own needs it once."""
    settings, output = connected_settings(), Output(as_json=as_json)
    created = create_topics(settings)
    if as_json:
        output.document({"topics": list(settings.kafka.topics), "created": created})
        return
    for topic in settings.kafka.topics:
        output.say(f"{'created' if topic in created else 'exists '}  {topic}")
