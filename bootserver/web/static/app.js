// Theme, palette, copying, and pages that stay as the server has them. Every page works without it.
(() => {
  const root = document.documentElement,
    themes = ['auto', 'light', 'dark'];
  let theme = new URLSearchParams(location.search).get('theme');
  try {
    theme ??= localStorage.theme;
  } catch {}
  const setTheme = t => {
    theme = themes.includes(t) ? t : 'auto';
    theme == 'auto' ? delete root.dataset.theme : (root.dataset.theme = theme);
  };
  setTheme(theme);
  const $ = s => document.querySelector(s),
    $$ = s => [...document.querySelectorAll(s)];

  // What somebody has typed, chosen or opened survives that the element around it is replaced.
  const controls = e => [...e.querySelectorAll('input:not([type=hidden]), select, textarea, details')];
  const nameOf = (c, i) =>
    c.tagName == 'DETAILS'
      ? 'details' + i
      : c.name + '\n' + (c.type == 'checkbox' ? c.value : '') + '\n' + (c.form?.getAttribute('action') || '');
  const keep = e => {
    const kept = new Map();
    controls(e).forEach((c, i) => {
      if (
        c.tagName == 'DETAILS'
          ? c.open
          : c.type == 'checkbox'
            ? c.checked != c.defaultChecked
            : c.tagName == 'SELECT'
              ? ![...c.options].every(o => o.selected == o.defaultSelected)
              : c.value != c.defaultValue
      )
        kept.set(nameOf(c, i), c);
    });
    return kept;
  };
  const restore = (e, kept) =>
    controls(e).forEach((c, i) => {
      const old = kept.get(nameOf(c, i));
      if (!old) return;
      if (c.tagName == 'DETAILS') c.open = true;
      else if (c.type == 'checkbox') c.checked = old.checked;
      else c.value = old.value;
    });
  const replace = (old, fresh) => {
    const kept = keep(old),
      held = old.contains(document.activeElement) && document.activeElement;
    const at = held && [...old.querySelectorAll('a, button, input, select, summary, [tabindex]')].indexOf(held);
    const scrolled = old.querySelector('.console')?.scrollTop;
    old.replaceWith(fresh);
    restore(fresh, kept);
    if (held)
      (held == old ? fresh : fresh.querySelectorAll('a, button, input, select, summary, [tabindex]')[at])?.focus({
        preventScroll: true,
      });
    if (scrolled) fresh.querySelector('.console').scrollTop = scrolled;
  };
  const parse = html => {
    const t = document.createElement('template');
    t.innerHTML = html.trim();
    return t.content.firstElementChild;
  };

  // The page as it is now, when its parts are others than before.
  let loading = false;
  const reload = async () => {
    if (loading) return;
    loading = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: 'text/html' } });
      if (!answer.ok) {
        location.reload();
        return;
      }
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      const main = page.getElementById('main');
      if (!main) {
        location.reload();
        return;
      }
      Object.assign(document.body.dataset, page.body.dataset);
      const y = scrollY;
      replace($('#main'), document.adoptNode(main));
      enhance();
      scrollTo(0, y);
      $$('.side .n').forEach(n => {
        const now = page.getElementById(n.id);
        if (now) n.textContent = now.textContent;
      });
    } catch {
      lost(true);
    } finally {
      loading = false;
    }
  };

  let stream;
  const lost = is => {
    const l = $('#live');
    if (l) {
      l.hidden = false;
      l.classList.toggle('lost', is);
      l.firstElementChild.textContent = is ? 'Not connected' : 'Live';
    }
  };
  const connect = () => {
    const view = document.body.dataset.view;
    if (!view || stream || document.hidden) return;
    stream = new EventSource(
      '/live?of=' +
        encodeURIComponent(view) +
        '&order=' +
        document.body.dataset.order +
        '&cursor=' +
        encodeURIComponent(document.body.dataset.cursor),
    );
    stream.onopen = () => lost(false);
    stream.onerror = () => {
      lost(true);
      if (stream?.readyState == 2) {
        disconnect();
        setTimeout(() => reload().then(connect), 5000);
      }
    };
    stream.addEventListener('parts', e => {
      document.body.dataset.cursor = e.lastEventId;
      for (const [id, html] of JSON.parse(e.data)) {
        const old = document.getElementById(id),
          fresh = parse(html);
        if (old && fresh) replace(old, fresh);
      }
    });
    stream.addEventListener('reload', () => {
      disconnect();
      reload().then(connect);
    });
    stream.addEventListener('end', () => {
      disconnect();
      location.reload();
    });
  };
  const disconnect = () => {
    stream?.close();
    stream = null;
  };

  const enhance = () => {
    const all = $('#all');
    if (all) {
      all.hidden = false;
      all.onchange = () => $$('tbody input[name=machine]').forEach(c => (c.checked = all.checked));
    }
  };

  addEventListener('DOMContentLoaded', () => {
    const here = new URL(location.href);
    if (here.searchParams.has('did')) {
      here.searchParams.delete('did');
      history.replaceState(null, '', here);
    }
    enhance();
    connect();
    document.addEventListener('visibilitychange', () => (document.hidden ? disconnect() : connect()));
    addEventListener('pagehide', disconnect);
    addEventListener('pageshow', connect);

    const button = $('#theme');
    if (button) {
      const say = () => {
        button.setAttribute('aria-label', 'Theme: ' + theme);
        button.title = 'Theme: ' + theme;
      };
      button.hidden = false;
      say();
      button.onclick = () => {
        setTheme(themes[(themes.indexOf(theme) + 1) % 3]);
        try {
          localStorage.theme = theme;
        } catch {}
        say();
      };
    }

    const dim = e => {
      const state = e.target.closest?.('.sum a')?.dataset.state;
      if (state == document.body.dataset.dim) return;
      state ? (document.body.dataset.dim = state) : delete document.body.dataset.dim;
    };
    document.addEventListener('pointerover', dim);
    document.addEventListener('focusin', dim);

    document.addEventListener('click', async e => {
      const b = e.target.closest('[data-copy]');
      if (!b) return;
      try {
        await navigator.clipboard.writeText(b.previousElementSibling.textContent);
      } catch {
        return;
      }
      b.classList.add('done');
      $('#said').textContent = 'Copied';
      setTimeout(() => {
        b.classList.remove('done');
        $('#said').textContent = '';
      }, 1500);
    });

    const box = $('#palette'),
      field = $('#find'),
      list = $('#found');
    if (!box) return;
    let at = 0,
      asked = 0,
      looking = Promise.resolve();
    const options = () => [...list.querySelectorAll('[role=option]')];
    const mark = i => {
      const all = options();
      at = all.length ? (i + all.length) % all.length : 0;
      all.forEach((o, n) => {
        o.id = 'o' + n;
        o.setAttribute('aria-selected', n == at);
      });
      field.setAttribute('aria-activedescendant', all[at]?.id || '');
      all[at]?.scrollIntoView({ block: 'nearest' });
    };
    const look = async () => {
      const n = ++asked;
      let html = '';
      try {
        const answer = await fetch('/find?q=' + encodeURIComponent(field.value));
        if (answer.ok) html = await answer.text();
      } catch {}
      if (n != asked) return;
      list.innerHTML = html;
      $('#none').hidden = options().length > 0;
      mark(0);
    };
    const open = () => {
      if (!box.open) box.showModal();
      field.value = '';
      field.focus();
      looking = look();
    };
    const opener = $('#open');
    opener.removeAttribute('command');
    opener.removeAttribute('commandfor');
    opener.onclick = open;
    field.oninput = () => {
      looking = look();
    };
    field.onkeydown = e => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (step) {
        e.preventDefault();
        mark(at + step);
      }
    };
    field.form.onsubmit = async e => {
      // what is typed may still be looked for
      e.preventDefault();
      await looking;
      const o = options()[at];
      if (o) o.click();
      else e.target.submit();
    };
    box.onclick = e => {
      if (e.target == box || e.target.closest('[role=option]')) box.close();
    };
    addEventListener('keydown', e => {
      if ((e.ctrlKey || e.metaKey) && e.key == 'k') {
        e.preventDefault();
        box.open ? box.close() : open();
      }
    });
    if (location.hash == '#palette') open();
  });
})();
