"""Programs whose arguments can run commands or write files: data for the warnings of `bastion check`.

GTFOBins lists most of these programs, with such arguments. docs/configuration.md shows the warnings.
"""

from typing import Final

_STARTS_OTHERS: Final = """
    7z agetty ansible ansible-playbook apk apt apt-get aptitude aria2c at awk batch bazel bundle bundler busctl
    busybox byebug c89 c99 cargo cc certbot chroot cmake cobc composer cpan cpio cpulimit crash crictl crontab ctr
    debugfs dmesg dnf doas docker docker-compose dotnet dpkg dstat dvips easy_install eb ebuild emacs emerge
    enscript entr env ex exec exiftool expect facter find fish fling flock ftp g++ gawk gcc gcloud gcore gdb gem
    genie gimp ginsh git gnuplot go gradle grunt gtester gulp helm hping3 iftop ionice ip irb ispell jjs journalctl
    jrunscript kubectl latex latexmk lftp logrotate logsave ltrace lua lualatex luatex mail mailx make man mawk more
    msfconsole multitime nawk neofetch nerdctl nice nmap node nodejs nohup npm npx nroff nsenter octave openssl
    openvpn pandoc parallel pdflatex pdftex perf perlbug pexec pip pip3 pipenv pkexec pkg podman poetry posh pry
    psftp puppet pyenv rails rake rc restic rlwrap rpm rpmdb rpmquery rpmverify rsync run-mailcap run-parts
    runscript rustc rview rvim sash scp screen script sed service setarch setlock sftp sg slsh smbclient snap socat
    split sqlmap ssh ssh-agent ssh-keygen sshfs sshpass start-stop-daemon stdbuf strace su sudo systemctl
    systemd-run tar task taskset tasksh tcpdump tdbtool terraform time timedatectl timeout tmate tmux top torify
    torsocks unshare uv vagrant volatility w3m watch wget wish xargs xdg-open xelatex xetex yarn yum zathura zip
    zypper
"""
_ARE_SHELLS: Final = """
    . ash bash bun csh dash deno elvish erl eval fish gjs groovy guile java julia ksh lua mksh nu osascript perl php
    pwsh python R Rscript ruby scala sh source swift tclsh tcsh yash zsh
"""
_HAVE_PROMPTS: Final = """
    bat batcat bconsole clickhouse-client cqlsh ed emacs info less lynx mariadb mongo mongosh most mutt mysql nano
    nvim pg pico pine psql redis-cli rview sqlite sqlite3 sqlplus telnet vi view vim vimdiff
"""
_WRITE_FILES: Final = """
    ar chattr chmod chown cp cpio csplit curl dd ex gunzip gzip iconv install joe link ln mkfifo mknod mount mv nc
    ncat netcat patch pax red rm rmdir rrdtool setfacl shred shuf sort sponge tee touch truncate unlink unzip
    update-alternatives useradd usermod varnishncsa xz zstd
"""

RISKS: Final = {
    **dict.fromkeys(_WRITE_FILES.split(), "writes files of the caller's choice"),
    **dict.fromkeys(_STARTS_OTHERS.split(), "starts other programs"),
    **dict.fromkeys(_HAVE_PROMPTS.split(), "starts other programs from its prompt"),
    **dict.fromkeys(_ARE_SHELLS.split(), "runs whatever it is given"),
}
