"""An existing launch read into a scenario: files to statements, statements to a scenario's keys, keys to a file.

`files` tells kinds of files apart, `shell_files`, `structured` and `python_files` read them without running anything,
`dialects` says whose names they use, `backwards` reads the tables of launch targets backwards, `models`, `clusters`
and `assemble` make the sections, `written` the file with every line's origin.
"""
