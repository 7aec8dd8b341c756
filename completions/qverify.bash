# Made by `qverify --print-page bash`; do not edit.
_qverify() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  # --name=value comes as three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  case $prev in
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "--help -h --version --against --min-sqnr --min-cosine --max-mse --max-abs --ignore --eval --field --tokens --ppl --seqlen --stride --windows -n --compute --no-act-quant --max-kl --max-ppl-increase --min-top1 --baseline --tolerance --choices --generate --max-new-tokens --temperature --top-p --seed --target --tp --ep --pp --hw --engine-args --device-memory --list-rules --explain --report --top --manifest --manifest-file --no-check --sample --threads -j --max-memory --json --quiet -q --verbose -v --strict" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -o filenames -F _qverify qverify
