"""Shell command lines, read by tree-sitter's grammar of bash and, where nothing is expanded, by Python's `shlex` too.

Only lines of plain commands are understood: words and quotes, pipes, `&&`, `||`, `;`, `&`, redirections, assignments,
substitutions. Loops, functions, here-documents, arithmetic, brace expansion and whatever else a shell has are errors:
a guard that does not know what a line does must say so.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Final

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

MAX_CHARS: Final = 4096
MAX_DEPTH: Final = 32
_BASH: Final = Parser(Language(tree_sitter_bash.language()))
_GLOB: Final = re.compile(r"(?<!\\)[*?\[]|(?<!\\)[!+@]\(")
_DESCRIPTOR: Final = re.compile(r"[0-9]")
"""`12>x` is a word and a redirection to one shell; so is `-x2>y`, which the grammar takes for one. `&>x` is bash's own:
to others it ends the command."""
_IN_QUOTES: Final = re.compile(r'\\([\\"$`])')
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(slots=True)
class _Line:
    commands: list[dict[str, Any]] = field(default_factory=list)
    redirects: list[dict[str, Any]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    tokens: list[str] = field(default_factory=list)
    """Words and operators in their order, for the second opinion."""


_FLAGS: Final = ("pipes", "chains", "background", "substitutions", "expansions", "globs")


def read(text: str) -> dict[str, Any]:
    """`{commands: [{name, argv, assignments}], redirects: [{op, target}], pipes, chains, background, substitutions,
    expansions, globs}`.

    A word that is known only when the line runs is null in `argv`, `name` and `target`. Commands in substitutions are
    among `commands`.

    Raises:
        ValueError: not understood whole.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    if not text.replace("\t", " ").isprintable():
        raise ValueError("several lines, or a character that cannot be seen")
    if any(char.isspace() and char not in " \t" for char in text):
        raise ValueError("a space that a shell does not take for one")
    raw = text.encode(errors="surrogatepass")
    tree = _BASH.parse(raw)
    if tree.root_node.has_error:
        raise ValueError("not a line of bash")
    line = _Line()
    _statement(tree.root_node, line, 0)
    if not line.commands:
        raise ValueError("no command")
    if not line.flags & {"substitutions", "expansions"} and _second_opinion(text) != line.tokens:
        raise ValueError("it can be read in several ways")
    return {"commands": line.commands, "redirects": line.redirects, **{flag: flag in line.flags for flag in _FLAGS}}


def _second_opinion(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _statement(node: Node, line: _Line, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    match node.type:
        case "program" | "list" | "pipeline" | "redirected_statement" | "negated_command":
            for child in node.children:
                _statement(child, line, depth + 1)
        case "command":
            _command(node, line, depth)
        case "file_redirect":
            _redirect(node, line, depth)
        case "variable_assignment":
            line.commands.append({"name": "", "argv": [], "assignments": [_assignment(node, line, depth)]})
        case "&&" | "||" | ";":
            line.flags.add("chains")
            line.tokens.append(node.type)
        case "|":
            line.flags.add("pipes")
            line.tokens.append("|")
        case "&":
            line.flags.add("background")
            line.tokens.append("&")
        case "!":
            line.tokens.append("!")
        case other:
            raise ValueError(f"not read: {other.replace('_', ' ') if other.isidentifier() else 'an operator'}")


def _command(node: Node, line: _Line, depth: int) -> None:
    words: list[str | None] = []
    assignments: list[str] = []
    for child in node.children:
        match child.type:
            case "variable_assignment":
                assignments.append(_assignment(child, line, depth))
            case "file_redirect":
                _redirect(child, line, depth)
            case "command_name":
                words.append(_word(child.children[0], line, depth))
            case _:
                words.append(_word(child, line, depth))
    if not words:
        raise ValueError("no command")
    line.commands.append({"name": words[0], "argv": words[1:], "assignments": assignments})


def _assignment(node: Node, line: _Line, depth: int) -> str:
    name, equals, *value = node.children
    if name.type != "variable_name" or equals.type != "=" or len(value) > 1:
        raise ValueError("not read: an assignment")
    before = len(line.tokens)
    text = _word(value[0], line, depth) if value else ""
    del line.tokens[before:]
    known = _text(name)
    line.tokens.append(f"{known}={text}")
    return known


def _redirect(node: Node, line: _Line, depth: int) -> None:
    operator, target = "", None
    for child in node.children:
        if child.type == "file_descriptor":
            if not _DESCRIPTOR.fullmatch(_text(child)):
                raise ValueError("a redirection that shells read differently")
            line.tokens.append(_text(child))
        elif not child.is_named:
            operator = child.type
            line.tokens.append(operator)
        elif target is not None:
            raise ValueError("not read: a redirection")
        else:
            target = child
    if target is None:
        raise ValueError("not read: a redirection")
    if "&" in operator and (operator.startswith("&") or not _DESCRIPTOR.fullmatch(_text(target))):
        raise ValueError("a redirection that shells read differently")
    line.redirects.append({"op": operator, "target": _word(target, line, depth)})


def _word(node: Node, line: _Line, depth: int) -> str | None:
    """The word as the command gets it; None where only the shell will know."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    word = _literal(node, line, depth)
    line.tokens.append(word or "")
    return word


def _literal(node: Node, line: _Line, depth: int) -> str | None:
    text = _text(node)
    match node.type:
        case "word" | "number":
            return _bare(text, line, is_first=True)
        case "raw_string":
            return text[1:-1]
        case "string":
            return _quoted(node, text, line, depth)
        case "concatenation":
            if _may_be_braces(text):
                raise ValueError("not read: brace expansion")
            parts = [_part(child, line, depth, is_first=index == 0) for index, child in enumerate(node.children)]
            whole = [part for part in parts if part is not None]
            return "".join(whole) if len(whole) == len(parts) else None
        case "simple_expansion" | "expansion":
            _inner(node, line, depth)
            line.flags.add("expansions")
            return None
        case "command_substitution" | "process_substitution":
            _substitution(node, line, depth)
            return None
        case other:
            raise ValueError(f"not read: {other.replace('_', ' ') if other.isidentifier() else 'an operator'}")


def _part(node: Node, line: _Line, depth: int, *, is_first: bool) -> str | None:
    if node.type == "word":
        return _bare(_text(node), line, is_first=is_first)
    return _literal(node, line, depth)


def _bare(text: str, line: _Line, *, is_first: bool) -> str | None:
    if _may_be_braces(text):
        raise ValueError("not read: brace expansion")
    if (is_first and text.startswith("~")) or "=~" in text or ":~" in text:
        line.flags.add("expansions")
        return None
    if _GLOB.search(text):
        line.flags.add("globs")
    return _ESCAPED.sub(r"\1", text)


def _may_be_braces(text: str) -> bool:
    """Whether bash might make several words of it. Where the braces end is not looked for: a `}` may be quoted."""
    _, brace, rest = text.partition("{")
    return bool(brace) and ("," in rest or ".." in rest)


def _quoted(node: Node, text: str, line: _Line, depth: int) -> str | None:
    known = True
    for child in node.children:
        if child.type not in {'"', "string_content"}:
            known = False
            _literal(child, line, depth)
    return _IN_QUOTES.sub(r"\1", text[1:-1]) if known else None


def _inner(node: Node, line: _Line, depth: int) -> None:
    """An expansion may hold substitutions, which run commands."""
    for child in node.children:
        if child.type in {"command_substitution", "process_substitution"}:
            _substitution(child, line, depth)
        elif child.type in {"expansion", "simple_expansion", "string", "concatenation"}:
            _literal(child, line, depth + 1)
        elif child.type not in {"$", "${", "}", "variable_name", "special_variable_name"}:
            raise ValueError("not read: an expansion with an operator")


def _substitution(node: Node, line: _Line, depth: int) -> None:
    line.flags.add("substitutions")
    for child in node.children:
        if child.type not in {"$(", "`", ")", "<(", ">("}:
            _statement(child, line, depth + 1)


def _text(node: Node) -> str:
    return (node.text or b"").decode()
