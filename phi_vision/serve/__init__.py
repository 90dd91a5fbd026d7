"""The HTTP service: OpenAI-shaped answers, records with confidences, one page to try it on."""
