from __future__ import annotations

import tracemalloc
from threading import Thread
from time import thread_time
from typing import Any

import pytest
from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.tasks import sandbox
from pipeline.tasks.sandbox import BoundError, compile_template

CHAT = [
    {"role": "system", "content": " Be <b>brief</b>. "},
    {"role": "user", "content": "What is 'ä' & \"😀\"?\nTell me."},
    {"role": "assistant", "content": "<think>\nA letter.\n</think>\n\nA letter, and a face."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
]


def grown(step: str, start: str = "'aaaa'") -> str:
    """A hundred steps that each make of ``ns.x`` something larger, and then its output."""
    loop = f"{{% for i in range(100) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}) %}}{loop}{{{{ ns.x }}}}"


LONG = "('a' * 100000)"
ATTACKS = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "loops that filter": "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in [9] recursive %}{% if a %}{{ loop([a - 1] * 9) }}{% endif %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "a long output": "{% for i in range(100000) %}" + "x" * 10_000 + "{% endfor %}",
    "a long block": "{% for i in range(100000) %}{% filter upper %}" + "x" * 10_000 + "{% endfilter %}{% endfor %}",
    "a long macro": f"{{% set x = [{LONG} * 10] %}}{{% macro m() %}}{'{{ x }}' * 2000}{{% endmacro %}}{{{{ m() }}}}",
    "a block of lists": f"{{% set x = [{LONG} * 10] %}}"
    "{% set y %}{% for i in range(100000) %}{{ x }}{% endfor %}{% endset %}",
    "repetition": "{{ 'a' * 1000000000 }}",
    "repetition from the right": "{{ 1000000000 * 'a' }}",
    "a repeated list": "{{ ([1] * 100000000)|length }}",
    "a power": "{{ 10 ** 100000000 }}",
    "doubling with +": grown("ns.x + ns.x"),
    "doubling with ~": grown("ns.x ~ ns.x"),
    "doubling a list": grown("ns.x + ns.x", "[1]"),
    "doubling a number": grown("ns.x + ns.x", "2"),
    "doubling a negative number": grown("ns.x - (-ns.x)", "2"),
    "squaring a number": grown("ns.x * ns.x", "2"),
    "doubling a block": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "lists of the same list": grown("[ns.x, ns.x]", "[1]"),
    "objects of the same object": grown("{'a': ns.x, 'b': ns.x}", "{}"),
    "views of the same object": grown("{'a': ns.x, 'b': ns.x}.items()", "{}"),
    "depth": grown("(ns.x,)", "1"),
    "a filter's width": "{{ 'a'|center(1000000000) }}",
    "an indent": "{{ 'a\n\n'|indent(width=1000000000, first=true) }}",
    "an indent of JSON": "{{ {'a': [1, 2]}|tojson(indent=1000000000) }}",
    "a printf width": "{{ '%1000000000d' % 1 }}",
    "a printf width by name": "{{ '%(a)1000000000s' % {'a': 1} }}",
    "a printf width as argument": "{{ '%*d' % (1000000000, 1) }}",
    "a printf filter": "{{ '%1000000000d'|format(1) }}",
    "a format width": "{{ '{:1000000000}'.format(1) }}",
    "a format width as argument": "{{ '{:{0[0]}}'.format([1000000000]) }}",
    "a format map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "batches filled up": "{{ [1]|batch(1000000000, 'x')|list }}",
    "slices": "{{ [1]|slice(1000000000)|list }}",
    "replacing": f"{{{{ {LONG}.replace('a', {LONG}) }}}}",
    "a filter that replaces": f"{{{{ {LONG}|replace('a', {LONG}) }}}}",
    "joining": f"{{{{ {LONG}.join({LONG}) }}}}",
    "joining numbers": f"{{{{ {LONG}.join(range(100000)|map('string')) }}}}",
    "a filter that joins": f"{{{{ range(100000)|join({LONG}) }}}}",
    "splitting": f"{{{{ ({LONG} * 100).split('a')|length }}}}",
    "splitting at spaces": "{{ ('aa ' * 4000000).split()|length }}",
    "splitting lines": "{{ ('aa\n' * 4000000)|indent(0)|length }}",
    "characters": "{{ ('ü' * 4000000)|list|length }}",
    "a mapped list": "{% set r = range(100000) %}{{ [r, r, r, r, r, r, r, r, r, r]|map('list')|list|length }}",
    "chained filters": "{% set ns = namespace(x=['a']) %}{% for i in range(100000) %}"
    "{% set ns.x = ns.x|map('upper') %}{% endfor %}{{ ns.x|list }}",
    "searching": f"{{% set x = {LONG} * 40 %}}{{% for i in range(100000) %}}{{{{ ({LONG} ~ i) in x }}}}{{% endfor %}}",
    "arguments": "{% for i in range(100000) %}{{ loop.cycle(*range(100000)) }}{% endfor %}",
    "a test": "{% set x = 'ä' * 2000000 %}{% for i in range(100000) %}{{ x is lower }}{% endfor %}",
    "a refusal": "{{ raise_exception('a' * 100000000) }}",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_template_that_loops_or_grows_without_end_is_stopped(attack: str) -> None:
    template = compile_template(attack)
    began = thread_time()
    with pytest.raises(BoundError):
        template.render(messages=CHAT)
    assert thread_time() - began < 2 * sandbox.MAX_SECONDS


@pytest.mark.parametrize(
    "name",
    [
        *("doubling with +", "a mapped list", "joining numbers", "characters", "splitting lines", "a long output"),
        *("a long macro", "a block of lists"),
    ],
)
def test_a_template_that_grows_takes_some_tens_of_megabytes_at_most(name: str) -> None:
    template = compile_template(ATTACKS[name])
    tracemalloc.start()
    try:
        with pytest.raises(BoundError):
            template.render(messages=CHAT)
        assert tracemalloc.get_traced_memory()[1] < 64_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "attack",
    [
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a'['ljust'](1000000000) }}",
        "{{ ('a'|attr('zfill'))(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ dict.fromkeys(range(100000), 1) }}",
    ],
)
def test_methods_that_no_chat_needs_are_not_there(attack: str) -> None:
    with pytest.raises(SecurityError, match="unsafe"):
        compile_template(attack).render()


def test_the_toys_of_jinja_are_not_there() -> None:
    assert compile_template("{{ lipsum is defined or cycler is defined or joiner is defined }}").render() == "False"


def test_a_namespace_is_printed_without_what_is_in_it() -> None:
    inner = "{% set ns.x = namespace(a=ns.x, b=ns.x) %}"
    template = "{% set ns = namespace(x=1) %}{% for i in range(60) %}" + inner + "{% endfor %}{{ ns.x }}"
    assert compile_template(template).render() == "<Namespace>"


def test_nothing_is_made_of_a_template_before_it_is_rendered() -> None:
    began = thread_time()
    compile_template("{{ 'a'|center(1000000000) }}{{ ['a']|batch(1000000000, 'x')|list }}{{ 9 ** 99999999 }}")
    assert thread_time() - began < 1


def test_a_template_longer_than_any_is_refused() -> None:
    with pytest.raises(BoundError, match="no chat needs more than 100,000"):
        compile_template("x" * 100_001)


def test_every_rendering_has_the_bounds_for_itself() -> None:
    template = compile_template("{% for i in range(100000) %}{% if i == text %}{% endif %}{% endfor %}{{ text }}")
    for _ in range(5):
        assert template.render(text="done") == "done"


def test_renderings_on_several_threads_do_not_share_their_bounds() -> None:
    template, answers = compile_template("{% for i in range(60000) %}{% endfor %}{{ text }}"), list[str]()
    threads = [Thread(target=lambda: answers.append(template.render(text="done"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["done"] * 4


def test_it_is_the_threads_own_time_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(sandbox, "monotonic", lambda: next(hours))
    assert compile_template("{% for i in range(100) %}.{% endfor %}").render() == "." * 100


def test_what_marks_an_answer_for_training_is_rendered_as_if_it_were_not_there() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    assert compile_template(source).render(messages=[{"content": "a"}, {"content": "b"}]) == "a|b|"


def test_a_long_conversation_is_rendered() -> None:
    messages = [{"role": ("user", "assistant")[turn % 2], "content": "Hallo, 你好 " * 100} for turn in range(1000)]
    for source in TEMPLATES.values():
        assert compile_template(source).render(messages=messages, **GIVEN) == plain(source).render(
            messages=messages, **GIVEN
        )


GIVEN: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
TEMPLATES = {
    "turns": """
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""",
    "from behind, with thoughts cut out": """
{%- set ns = namespace(seeking=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.seeking and message.role == 'user' and message.content is string and not
           (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.seeking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 >= ns.last or loop.last %}{{ '(' ~ thought.strip() ~ ')' }}{% endif %}
    {%- endif %}
    {{- message.role|upper + ': ' + content|trim|replace('\\n', ' ') + '\\n' }}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}
""",
    "a date and the system's message apart": """
{{- bos_token }}
{%- if not date is defined %}
    {%- set date = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- 'Today: ' + date + '\\n' + system }}
{%- for message in messages %}
    {%- if not (message.role in ['tool', 'ipython'] or 'tool_calls' in message) %}
        {{- '<|' + message['role'] + '|>' }}
        {%- if message['content'] is string %}{{ message['content'] | trim }}
        {%- else %}
            {%- for part in message['content'] %}
                {%- if part['type'] == 'image' %}{{ '<image>' }}{% elif part.type == 'text' %}{{ part.text }}{% endif %}
            {%- endfor %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
""",
    "filters in a row, and macros": """
{%- macro turn(message, last) -%}
    {{ '%s (%d): ' % (message.role|title, message.content|length) }}{{ message.content|tojson(indent=2) }}
    {%- if last %}{{ eos_token }}{% endif %}
{%- endmacro %}
{%- set rest = messages | rejectattr('role', 'equalto', 'system') | list %}
{%- set said = rest | selectattr('role', 'equalto', 'user') | list %}
{%- for message in rest | selectattr('tool_calls', 'undefined') %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}
    {%- if message == said[-1] %}{{ '[last]' }}{% endif %}
    {{- turn(message, loop.last) }}
    {%- if not loop.first %}{{ loop.previtem.role }}{{ loop.length }}{{ loop.revindex0 }}{% endif %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
{%- else %}none
{%- endfor %}
{{- messages | map(attribute='role') | unique | sort | join(', ') }}
{%- for key, value in messages[-1].items() | list + [('a', 1)] %}{{ key ~ '=' ~ value }}{% endfor %}
{%- for key, value in messages[0] | dictsort %}{{ '{}: {:>4}'.format(key, value|length) }}{% endfor %}
{{- '-' * 20 }}{{ [1, 2] + [3] }}{{ 7 // 2 * 3 - 1.5 }}{{ 'abc'|reverse }}{{ range(3)|list }}{{ x|default('y') }}
{%- set tail %}{{ 'a b'.title().join([' ', ' ']) }}{% endset %}{{ tail|indent(2, first=true) }}
{%- for n in [[1, [2]], [3]] recursive %}{{ loop(n) if n is iterable else n }}{% endfor %}
{{- messages[0].get('name', 'nobody') }}{{ messages[:1]|tojson }}{{ 'yes' if 1 < 2 < 3 else 'no' }}
""",
}


def plain(source: str) -> Template:
    """As it was rendered before there were bounds, and as transformers renders it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
def test_what_real_templates_do_is_rendered_as_ever(source: str, turns: int) -> None:
    messages = CHAT[:turns]
    try:
        expected = plain(source).render(messages=messages, **GIVEN)
    except Exception as error:  # the first template takes no message in parts
        with pytest.raises(type(error)):
            compile_template(source).render(messages=messages, **GIVEN)
    else:
        assert compile_template(source).render(messages=messages, **GIVEN) == expected
