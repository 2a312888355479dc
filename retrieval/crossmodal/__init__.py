"""Words and pixels together: re-ranking, captions, summaries, answers, explanations."""
