# Two stages: uv builds the environment, the image holds only the environment. Python and uv are pinned here,
# everything else by uv.lock.
FROM python:3.13.7-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
ENV UV_PROJECT_ENVIRONMENT=/opt/bulkrender UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --no-install-project
COPY README.md LICENSE ./
COPY migrations migrations
COPY runner runner
RUN uv sync --locked --no-dev --no-editable

FROM python:3.13.7-slim-bookworm
COPY --from=build /opt/bulkrender /opt/bulkrender
ENV PATH=/opt/bulkrender/bin:$PATH PYTHONUNBUFFERED=1
# A new named volume takes the owner of the folder it is mounted on.
RUN install -d -o 1000 -g 1000 /ledger /pictures /bill
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["bulkrender"]
CMD ["--help"]
