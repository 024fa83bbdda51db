"""The command `tierflow`: what people and scripts call.

`main` assembles the commands, one module each; `options` has what several of them take; `*_report` renders. Nothing is
decided here: planning is the core's, running is local mode's.
"""
