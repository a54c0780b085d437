//! Tables as virsh lays them out.

use super::manner::is_quiet;

/// A table, whose head a quiet process leaves out.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    laid_out((!is_quiet()).then_some(head), rows)
}

// Each column is as wide as its longest word and three spaces. Without `head`, rows alone.
fn laid_out(head: Option<&[&str]>, rows: &[Vec<String>]) -> String {
    let titles = head.unwrap_or_default();
    let columns = rows.first().map_or(titles.len(), Vec::len);
    let width = |column: usize| {
        let words = rows.iter().filter_map(|row| row.get(column)).map(|word| word.chars().count());
        words.chain(titles.get(column).map(|word| word.len())).max().unwrap_or(0) + 3
    };
    let line = |words: Vec<&str>| {
        let last = words.len().saturating_sub(1);
        let cell =
            |(n, word): (usize, &&str)| if n == last { (*word).to_owned() } else { format!("{word:<0$}", width(n)) };
        let cells: String = words.iter().enumerate().map(cell).collect();
        format!(" {cells}\n")
    };
    let mut text = String::new();
    if head.is_some() {
        text = line(titles.to_vec()) + &"-".repeat((0..columns).map(width).sum()) + "\n";
    }
    rows.iter().for_each(|row| text.push_str(&line(row.iter().map(String::as_str).collect())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_laid_out_as_virsh_does() {
        let row = ["testnet0", "network", "default", "-", "aa:bb:cc:dd:ee:ff"].map(str::to_owned).to_vec();
        let wanted = " Interface   Type      Source    Model   MAC
------------------------------------------------------------
 testnet0    network   default   -       aa:bb:cc:dd:ee:ff
";
        let head = ["Interface", "Type", "Source", "Model", "MAC"];
        assert_eq!(laid_out(Some(&head), std::slice::from_ref(&row)), wanted);
        assert_eq!(laid_out(None, &[row]), " testnet0   network   default   -   aa:bb:cc:dd:ee:ff\n");
        assert_eq!(laid_out(Some(&["Id", "Name", "State"]), &[]), " Id   Name   State\n--------------------\n");
    }
}
