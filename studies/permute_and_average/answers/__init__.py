"""One module for each question: `answer(records)` gives its `Answer`, in the order of the report."""

from answers import depth, kinds, methods, mixture, path, pictures, repair, survival

QUESTIONS = (survival, mixture, repair, depth, methods, kinds, pictures, path)
