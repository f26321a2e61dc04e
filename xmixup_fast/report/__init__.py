"""The page report.html, and pictures of runs and selections."""
