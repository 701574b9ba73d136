"""What the library stands, measured: one module and one command each, results in `results/robustness/*.json`.

| module | command | question |
|---|---|---|
| `soak`; `sequences`, `drawing`, `acts` | `make soak` | do thousands of random sequences of verbs keep every promise? |
| `fuzz`; `fuzzed`, `mutations`, `parsers` | `make fuzz` | does a parser let out anything but an error of ours? |
| `leaks` | `make leaks` | does anything grow over a thousand cycles? |
| `covered` | `make coverage` | which lines of the core do the tests of the core run? |
| `mutants` | `make mutants` | which changes of the code does no test notice? |

`test_*.py` are small versions of the first three for every run of the tests. docs/robustness.md shows the results.
"""
