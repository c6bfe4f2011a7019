"""The words of the field as frozen values: graph, scores, circuit, prompts, errors. Loads without torch."""
