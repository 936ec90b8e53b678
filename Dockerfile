FROM python:3.13-slim

RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/bastion bastion
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bastion bastion
RUN pip install --no-cache-dir --constraint constraints.txt . && rm -r /src/*

WORKDIR /var/lib/bastion
RUN install -d -o root -g root -m 0755 /etc/bastion && install -d -o bastion -g bastion -m 0750 /run/bastion
# The Docker socket is mounted by whoever runs this; give the container its group: --group-add "$(stat -c %g /var/run/docker.sock)"
# `docker stop` kills after 10 s, in the middle of the drain: --stop-timeout 75, or `stop_grace_period: 75s` of Compose.
USER 10001:10001   # a number, so that a cluster can tell that it is not root
ENV BASTION_SSH__LISTEN='["0.0.0.0:2222"]'
EXPOSE 2222
VOLUME /var/lib/bastion
ENTRYPOINT ["bastion"]
CMD ["serve"]
