"""The seam "what is optimised": pixels now; anything that decodes to images later."""
