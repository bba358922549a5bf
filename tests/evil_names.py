"""Names that a hostile model may have, and what is looked for wherever one of them is shown."""

EVIL_NAMES = [
    "../../escape",
    "/absolute",
    "\x1b[31mred\x1b]0;title\x07",
    "line\nbreak\r\ttab",
    "\x9b1mC1\x7f\u202eright to left\u2028",
    "<script>alert(1)</script>&amp;\"'",
    "]]><!ENTITY x SYSTEM 'file:///etc/passwd'>",
    "back\\slash:colon*star?",
    "=cmd|' /C calc'!A0",
    " +1+1",
    "\uff1d1+1",
    "$(touch marker) `id` %s {0} {{7*7}}",
    "[link](javascript:alert(1)) ![picture](http://127.0.0.1/x.png)",
    "http://127.0.0.1/ www.localhost.test",
    "| a | pipe | `code` **bold** _under_",
    "::error file=a.py,line=1::it is all your fault",
    "  ::set-output name=x::y",
    "##vso[task.setvariable variable=x]y",
    "##[error]it is all your fault",
    "##teamcity[buildStatus status='FAILURE']",
    "\n::error::on a line of its own",
    "\n##vso[task.complete result=Failed]",
    "nul\x00byte",
    "lone \udce9 surrogate",
    "漢字 😀 é",
    "x" * 50_000,
    "x" * 100_000,
]


def commands_of_ci(text):
    """Lines that GitHub, Azure or TeamCity would take for commands."""
    return [
        line
        for line in text.splitlines()
        if line.lstrip().startswith("::") or any(mark in line for mark in ("##vso[", "##[", "##teamcity["))
    ]
