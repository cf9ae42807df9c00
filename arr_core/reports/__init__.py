"""HTML pages about runs, verdicts, rubrics and win rates. Each page is one self-contained file."""
